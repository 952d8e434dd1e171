"""Trainings of two processes on the CPU, started by `--num-gpus 2` and by torchrun.

A small C4 net trains on drawn shapes. The losses of both launchers are compared bit for bit. Then
one of the processes is killed with SIGKILL during training, and a job receives SIGTERM.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mrcnn_plugin.data import make_shapes

ROOT = Path(__file__).resolve().parents[2]
NUM_GPUS = ("--num-gpus", 2, "--dist-url", "auto")
TWO = ("--nproc-per-node", 2)
NAMED = re.compile(r"rank *:? 1 .*SIGKILL", re.DOTALL)  # by this package, or by torchrun
SMALL = (
    *("INPUT.MIN_SIZE_TRAIN", "(96,)", "TEST.EVAL_PERIOD", 0, "DATASETS.TEST", "()"),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0, "SOLVER.CHECKPOINT_PERIOD", 10),
)


def rendezvous() -> tuple:
    """Options of torchrun for jobs on this machine that must not meet those of another one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    return ("--rdzv-backend", "c10d", "--rdzv-id", port, "--rdzv-endpoint", f"localhost:{port}")


def make_drawings(root: Path) -> Path:
    """A DETECTRON2_DATASETS with a small `shapes_train`."""
    make_shapes(root / "shapes/shapes_train/1500_seed1.json", 8, seed=1)
    return root


class Job:
    """A training in new processes: of torchrun with the options `launcher`, or of train_net.py."""

    def __init__(self, data: Path, output: Path, iterations: int, *, launcher=(), flags=()):
        self.output = output
        self.started = time.monotonic()
        torchrun = ("-m", "torch.distributed.run", *launcher) if launcher else ()
        config = ("--config-file", ROOT / "configs/mask_rcnn_shapes_C4.yaml", *flags)
        opts = (*SMALL, "SOLVER.MAX_ITER", iterations, "OUTPUT_DIR", output)
        command = (sys.executable, *torchrun, ROOT / "train_net.py", *config, *opts)
        # torchrun sets OMP_NUM_THREADS to 1. Another number of threads rounds differently.
        variables = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env={**os.environ, **variables, "DETECTRON2_DATASETS": str(data)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def finish(self, *, timeout: float = 300) -> tuple[int, str]:
        """The exit status and all that was printed."""
        try:
            printed, _ = self.process.communicate(timeout=timeout)
        finally:
            self.process.kill()
        return self.process.returncode, printed

    def wait_for_iteration(self, iteration: int) -> None:
        """Wait until metrics.json has a line of it, which it has every 20 iterations."""
        end = time.monotonic() + 240
        file = self.output / "metrics.json"
        while not (file.exists() and f'"iteration": {iteration},' in file.read_text()):
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError(f"no iteration {iteration}: {self.finish()}")
            time.sleep(0.1)

    def workers(self) -> list[int]:
        """The ids of the processes that train, in the order of their ranks."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        lines = {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in children}
        return [child for child, line in lines.items() if re.search("train_net|spawn_main", line)]

    def losses(self) -> list[tuple]:
        """(iteration, name, value) of each loss in metrics.json."""
        lines = map(json.loads, (self.output / "metrics.json").open())
        return [(x["iteration"], key, x[key]) for x in lines for key in sorted(x) if "loss" in key]


def compared_jobs(data: Path, output: Path, iterations: int = 41) -> dict[str, tuple[Job, float]]:
    """Finished jobs by launcher, and the seconds that they took."""
    jobs = {}
    nodes = ("--nnodes", 2, "--nproc-per-node", 1, *rendezvous())
    for name, how in (
        ("--num-gpus 2", {"flags": NUM_GPUS}),
        ("torchrun, 1 node x 2", {"launcher": (*TWO, *rendezvous())}),
        ("torchrun, 2 nodes x 1", {"launcher": nodes}),
    ):
        folder = output / name.replace(" ", "")
        started = [Job(data, folder, iterations, **how) for _ in range(2 if "nodes" in name else 1)]
        for job in started:
            status, printed = job.finish()
            if status:
                raise RuntimeError(printed)
        jobs[name] = started[0], time.monotonic() - started[0].started
    return jobs


def kill_one(data: Path, output: Path, *, torchrun: bool) -> tuple[int, str, float]:
    """Status, output and seconds until the end of a job whose second process is killed."""
    how = {"launcher": (*TWO, *rendezvous())} if torchrun else {"flags": NUM_GPUS}
    return _signalled(Job(data, output, 10**5, **how), lambda job: job.workers()[1], signal.SIGKILL)


def stop(data: Path, output: Path) -> tuple[int, str, float]:
    """Status, output and seconds until the end of a job of `--num-gpus 2` that receives SIGTERM."""
    job = Job(data, output, 10**5, flags=NUM_GPUS)
    return _signalled(job, lambda job: job.process.pid, signal.SIGTERM)


def restart(data: Path, output: Path, iterations: int = 121) -> tuple[list[int], float]:
    """Where torchrun started and restarted a job that lost a process, and seconds in total."""
    launcher = (*TWO, "--max-restarts", 1, *rendezvous())
    job = Job(data, output, iterations, launcher=launcher, flags=("--resume",))
    status, printed, _ = _signalled(job, lambda job: job.workers()[1], signal.SIGKILL, at=39)
    if status:
        raise RuntimeError(printed)
    starts = re.findall(r"Starting training from iteration (\d+)", printed)
    return list(map(int, starts)), time.monotonic() - job.started


def _signalled(
    job: Job, target: Callable[[Job], int], number: int, *, at: int = 19
) -> tuple[int, str, float]:
    job.wait_for_iteration(at)
    os.kill(target(job), number)
    begin = time.monotonic()
    return (*job.finish(), time.monotonic() - begin)


def _rows(data: Path, root: Path) -> Iterator[tuple[str, str, float]]:
    jobs = compared_jobs(data, root)
    (reference, (job, seconds)), *others = jobs.items()
    expected = job.losses()
    yield reference, f"{len(expected)} losses logged in 41 iterations", seconds
    for name, (job, seconds) in others:
        yield name, "equal bit for bit" if job.losses() == expected else "DIFFERENT", seconds
    for name, torchrun in (("--num-gpus 2", False), ("torchrun", True)):
        status, printed, seconds = kill_one(data, root / f"kill{torchrun}", torchrun=torchrun)
        is_named = "named" if NAMED.search(printed) else "NOT NAMED"
        yield f"{name}, rank 1 killed", f"job ends with status {status}, rank {is_named}", seconds
    starts, seconds = restart(data, root / "restart")
    seen = f"finishes; starts at iterations {' and '.join(map(str, starts))}"
    yield "torchrun --max-restarts 1, rank 1 killed", seen, seconds
    status, _, seconds = stop(data, root / "stop")
    yield "--num-gpus 2, SIGTERM", f"job ends with status {status}", seconds


def table() -> str:
    lines = ["| job of two processes | what happens | seconds |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        data = make_drawings(Path(folder, "data"))
        for name, seen, seconds in _rows(data, Path(folder)):
            lines.append(f"| {name} | {seen} | {seconds:.0f} |")
    return "\n".join(lines)
