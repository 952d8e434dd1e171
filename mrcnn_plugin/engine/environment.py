"""The place of this process in a job that torchrun, Ray Train, submitit or Slurm has started."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import RunError

_TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Place:
    """The place of a process in a job of `world_size` processes.

    Args:
        rank: 0 to `world_size - 1`. The ranks of a machine follow each other.
        world_size: number of processes of the job.
        local_rank: 0 to `local_world_size - 1`, also the index of the process's GPU.
        local_world_size: number of processes per machine, the same on each of them.
        url: where the processes meet: `env://`, or an address such as `tcp://10.0.0.1:29500`.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    url: str


def place_in_environment(environ: Mapping[str, str] = os.environ) -> Place | None:
    """The place that environment variables describe, or None if no launcher has set them.

    RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE are read first. Those of Slurm count in a step
    of several tasks only: a shell of `salloc` or `sbatch` and `srun --ntasks 1` are no such step.

    Raises:
        RunError: variables are missing, are not numbers or contradict each other.
    """
    if any(name in environ for name in _TORCH):
        return _checked(_torch_place(environ), _TORCH)
    # SLURM_NTASKS is also set in the shells of `salloc` and `sbatch`, SLURM_STEP_ID by `srun` only.
    if "SLURM_STEP_ID" not in environ or "SLURM_PROCID" not in environ:
        return None
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    if tasks not in environ or _number(environ, tasks) == 1:
        return None
    return _checked(_slurm_place(environ, tasks), ("SLURM_PROCID", tasks, "SLURM_LOCALID"))


def _torch_place(environ: Mapping[str, str]) -> Place:
    _require(environ, _TORCH)
    rank, world_size, local_rank, local_world_size = (_number(environ, name) for name in _TORCH)
    if world_size > 1:
        _require(environ, ("MASTER_ADDR", "MASTER_PORT"))
        _number(environ, "MASTER_PORT")
    return Place(rank, world_size, local_rank, local_world_size, url="env://")


def _slurm_place(environ: Mapping[str, str], tasks: str) -> Place:
    _require(environ, ("SLURM_LOCALID", "SLURM_JOB_ID"))
    job, step = _number(environ, "SLURM_JOB_ID"), _number(environ, "SLURM_STEP_ID")
    host = environ.get("MASTER_ADDR") or _first_host(environ)
    # Every task computes the same port, from a range below those that Linux hands out itself.
    computed = 20000 + (8 * job + step) % 12000
    port = _number(environ, "MASTER_PORT") if "MASTER_PORT" in environ else computed
    return Place(
        rank=_number(environ, "SLURM_PROCID"),
        world_size=_number(environ, tasks),
        local_rank=_number(environ, "SLURM_LOCALID"),
        local_world_size=_tasks_per_node(environ),
        url=f"tcp://{host}:{port}",
    )


def _tasks_per_node(environ: Mapping[str, str]) -> int:
    """Slurm writes the tasks of each node as "2", "4(x2)" or "4(x2),1"."""
    names = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE")
    name = next((name for name in names if name in environ), None)
    if name is None:
        raise RunError(f"SLURM_PROCID is set but none of {', '.join(names)}. Start it with srun.")
    match = re.fullmatch(r"(\d+)(\(x\d+\))?", environ[name])
    if match is None:
        raise RunError(
            f"{name} is '{environ[name]}'; expected the same number of tasks on each machine. Pass "
            "--ntasks-per-node to srun or sbatch."
        )
    return int(match[1])


def _first_host(environ: Mapping[str, str]) -> str:
    """The machine of rank 0. A list of nodes is written as "gpu[003-005,010],other"."""
    for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"):
        if environ.get(name):
            return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", environ[name]).split(",")[0]
    if environ.get("SLURM_LAUNCH_NODE_IPADDR"):
        return environ["SLURM_LAUNCH_NODE_IPADDR"]
    raise RunError(
        "SLURM_PROCID is set but neither SLURM_JOB_NODELIST nor SLURM_LAUNCH_NODE_IPADDR. Set "
        "MASTER_ADDR to the machine of rank 0."
    )


def _checked(place: Place, names: tuple[str, ...]) -> Place:
    ranks = ((place.rank, place.world_size), (place.local_rank, place.local_world_size))
    is_valid = all(0 <= rank < size for rank, size in ranks)
    if not is_valid or place.world_size % place.local_world_size:
        raise RunError(
            f"{_values(place)} (from {', '.join(names)}); expected each rank to be below its size, "
            "and the same number of processes on each machine"
        )
    if place.rank % place.local_world_size != place.local_rank:
        raise RunError(
            f"{_values(place)} (from {', '.join(names)}); expected the ranks of a machine to "
            "follow each other. With Slurm, pass --distribution=block to srun."
        )
    return place


def _values(place: Place) -> str:
    return (
        f"rank {place.rank} of {place.world_size} has local rank {place.local_rank} of "
        f"{place.local_world_size}"
    )


def _require(environ: Mapping[str, str], names: tuple[str, ...]) -> None:
    missing = [name for name in names if not environ.get(name)]
    if missing:
        found = [name for name in (*_TORCH, "SLURM_PROCID") if name in environ]
        raise RunError(
            f"{', '.join(found)} is set in the environment but {', '.join(missing)} is not. "
            "torchrun, Ray Train and srun set all of them. Unset them to start a single process."
        )


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ[name]
    if not re.fullmatch(r"[0-9]{1,9}", value.strip()):
        raise RunError(
            f"the environment variable {name} is '{value}'; expected a number. Unset it, or start "
            "the job with torchrun or srun, which set it."
        )
    return int(value)
