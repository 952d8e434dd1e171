"""Starts the processes of a job, or joins those that a launcher such as torchrun has started."""

import argparse
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from detectron2.engine import default_argument_parser
from torch.multiprocessing import ProcessRaisedException

from ..errors import RunError
from .distributed import run_in_group
from .environment import Place, place_in_environment

_GRACE = 15  # seconds that processes have to end by themselves after another one has failed
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def launch(function: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Call `function(args)` in every process of the job.

    If environment variables say that torchrun, Ray Train, submitit or srun has started this
    process, it joins the others of its job. Otherwise `args` says how many processes to start here;
    SIGTERM, SIGINT and SIGUSR1 are forwarded to them.

    Args:
        function: importable by the processes, which are new Python programs.
        args: of detectron2's `default_argument_parser`.

    Raises:
        RunError: options or environment variables contradict each other, a process raised it, or
            was killed. The other processes have been ended.
        SystemExit: a process raised it, with its status.
        torch.multiprocessing.ProcessRaisedException: a process raised any other exception.
    """
    place = place_in_environment()
    if place is not None:
        _check_no_own_processes(args)
        if place.world_size > 1:
            run_in_group(function, args, place)
            return
    _check_processes(args)
    if args.num_gpus * args.num_machines == 1:
        function(args)
    else:
        _start_processes(function, args)


def _check_no_own_processes(args: argparse.Namespace) -> None:
    default = default_argument_parser()
    for option in ("num_gpus", "num_machines", "machine_rank", "dist_url"):
        value = getattr(args, option)
        if value != default.get_default(option):
            raise RunError(
                f"--{option.replace('_', '-')} is {value}, but RANK and WORLD_SIZE or Slurm's "
                "variables in the environment say that a launcher has started the processes. Drop "
                "the option, or unset the variables to start the processes here."
            )


def _check_processes(args: argparse.Namespace) -> None:
    if args.num_gpus < 1 or args.num_machines < 1:
        raise RunError(
            f"--num-gpus is {args.num_gpus} and --num-machines is {args.num_machines}; expected 1 "
            "or more of each. Without a GPU, --num-gpus is the number of processes."
        )
    if not 0 <= args.machine_rank < args.num_machines:
        raise RunError(
            f"--machine-rank is {args.machine_rank}; expected 0 to {args.num_machines - 1} for "
            f"--num-machines {args.num_machines}"
        )
    url = args.dist_url
    if url == "auto" and args.num_machines > 1:
        raise RunError(
            "--dist-url auto works on a single machine only. Pass the address of the first machine "
            "to all of them, such as --dist-url tcp://10.0.0.1:29500."
        )
    if url != "auto" and not url.startswith(("tcp://", "file://", "env://")):
        raise RunError(
            f"--dist-url is '{url}'; expected 'auto' or an address such as tcp://10.0.0.1:29500"
        )


def _start_processes(function: Callable, args: argparse.Namespace) -> None:
    url = f"tcp://127.0.0.1:{_free_port()}" if args.dist_url == "auto" else args.dist_url
    with tempfile.TemporaryDirectory(prefix="mrcnn_errors_") as folder:
        context = torch.multiprocessing.start_processes(
            _process, (function, args, url, folder), nprocs=args.num_gpus, join=False
        )
        with _forwarded_signals(context.processes) as forwarded:
            statuses = _join(context.processes)
        _raise_first(statuses, context.processes, Path(folder), args, forwarded)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _process(local_rank: int, function: Callable, args: argparse.Namespace, url: str, folder: str):
    """What a started process does. An exception loses its type on the way, so it goes to a file."""
    # A terminal sends Ctrl-C to all of a process group, and the first process forwards it here too.
    os.setpgid(0, 0)
    place = Place(
        rank=args.machine_rank * args.num_gpus + local_rank,
        world_size=args.num_machines * args.num_gpus,
        local_rank=local_rank,
        local_world_size=args.num_gpus,
        url=url,
    )
    try:
        run_in_group(function, args, place)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)  # torch's wrapper would make it status 0
    except RunError as error:
        Path(folder, f"{local_rank:05d}.sentence").write_text(str(error))
        sys.exit(1)
    except Exception:
        Path(folder, f"{local_rank:05d}.traceback").write_text(traceback.format_exc())
        sys.exit(1)


@contextmanager
def _forwarded_signals(processes: Sequence[BaseProcess]) -> Iterator[list[int]]:
    """Send signals that end a training on to `processes`; yields a list of those received."""
    received: list[int] = []

    def forward(number, _frame):
        received.append(number)
        for process in processes:
            if process.exitcode is None:
                os.kill(process.pid, number)

    if threading.current_thread() is not threading.main_thread():
        yield received  # Python handles signals in the main thread only
        return
    previous = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _join(processes: Sequence[BaseProcess]) -> list[int | None]:
    """Wait for all processes; after one has failed, end those that do not end by themselves.

    Returns:
        The exit codes, and None for a process that had to be ended.
    """
    running = list(processes)
    while running and not any(process.exitcode for process in processes):
        multiprocessing.connection.wait([process.sentinel for process in running])
        running = [process for process in running if process.exitcode is None]
    _wait(running, _GRACE)
    statuses = [process.exitcode for process in processes]
    for end in (BaseProcess.terminate, BaseProcess.kill):
        for process in processes:
            if process.exitcode is None:
                end(process)
        _wait(processes, _GRACE)
    return statuses


def _wait(processes: Sequence[BaseProcess], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))


def _raise_first(statuses, processes, folder: Path, args, forwarded: list[int]) -> None:
    """Raise the cause of the first failure: a killed process, a RunError, any other exception."""
    first_rank = args.machine_rank * args.num_gpus
    has_reported = {int(file.stem) for file in folder.iterdir()}
    signals = {i: -status for i, status in enumerate(statuses) if status and status < 0}
    for index, number in signals.items():
        if number not in forwarded and index not in has_reported:
            raise RunError(_killed(first_rank + index, processes[index].pid, number))
    for sentence in sorted(folder.glob("*.sentence")):
        raise RunError(sentence.read_text())
    for text in sorted(folder.glob("*.traceback")):
        index = int(text.stem)
        message = f"\n\n-- Rank {first_rank + index} ended with the following error:\n"
        raise ProcessRaisedException(message + text.read_text(), index, processes[index].pid)
    failed = [status for status in statuses if status] + [128 + n for n in signals.values()]
    if failed:
        raise SystemExit(max(failed))


def _killed(rank: int, pid: int, number: int) -> str:
    name = signal.Signals(number).name
    cause = {
        "SIGKILL": "The kernel does this when memory runs out, which is the most common cause: "
        "check the kernel's log (dmesg), and reduce DATALOADER.NUM_WORKERS or "
        "SOLVER.IMS_PER_BATCH. ",
        "SIGABRT": "The lines above may contain the reason. ",
    }.get(name, "")
    return (
        f"rank {rank} (process {pid} on {socket.gethostname()}) was killed by {name}. {cause}"
        "The other processes have been ended. Pass --resume to continue from the last checkpoint."
    )
