"""A program of several processes that `launch` starts: `toy_job.py TASK FOLDER [options]`."""

import atexit
import os
import signal
import sys
import time
from pathlib import Path

import torch
from detectron2.engine import default_argument_parser
from detectron2.utils import comm

from mrcnn_plugin.engine.distributed import describe_process
from mrcnn_plugin.engine.launch import launch
from mrcnn_plugin.errors import RunError, one_sentence


def work(args):
    """A task of TASKS between two collective calls. Writes what the process is to a file."""
    torch.distributed.all_reduce(total := torch.ones(1))
    Path(args.folder, f"rank{comm.get_rank()}").write_text(f"{describe_process()}, sum {total[0]}")
    TASKS[args.task](args, comm.get_rank())
    torch.distributed.all_reduce(total)


def signals(args, rank):
    """Ends with the number of signals as status, one second after the first one."""
    received = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: received.append(number))
    Path(args.folder, f"ready{rank}").touch()
    while not received:
        time.sleep(0.05)
    time.sleep(1)
    sys.exit(70 + len(received))


def run_error(args, rank):
    if rank == 1:
        raise RunError("rank 1 is wrong")


def run_errors(args, rank):
    raise RunError("all ranks are wrong")


def exception(args, rank):
    if rank == 1:
        raise ZeroDivisionError


def killed(args, rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def late(args, rank):
    """Rank 1 finishes its work, which needs no other process, two seconds after rank 0."""
    torch.distributed.all_reduce(torch.ones(1))
    torch.distributed.all_reduce = lambda _: None
    time.sleep(2 * rank)
    Path(args.folder, f"finished{rank}").touch()
    if rank == 0:
        atexit.register(lambda: Path(args.folder, "rank0_left").touch())


def nothing(args, rank):
    pass


TASKS = {f.__name__: f for f in (signals, run_error, run_errors, exception, killed, late, nothing)}


def main(argv):
    parser = default_argument_parser()
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("folder")
    launch(work, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(one_sentence("toy", main, sys.argv[1:]))
