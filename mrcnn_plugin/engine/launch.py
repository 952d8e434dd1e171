"""Starts the processes of a job, and brings the error of one of them back as one sentence."""

import argparse
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import detectron2.engine
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ..errors import RunError


def launch(function: Callable, args: argparse.Namespace) -> None:
    """Call `function(args)` in every process that `args` asks for.

    Args:
        function: importable by the processes, which are new Python programs.
        args: of detectron2's `default_argument_parser`.

    Raises:
        RunError: the options contradict each other, or one of the processes raised it and the
            others have been ended.
    """
    _check_processes(args)
    # torch warns that it terminates the processes next to one that has stopped.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="mrcnn_errors_") as folder:
        try:
            detectron2.engine.launch(
                _call,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(function, args, folder),
            )
        except (ProcessExitedException, ProcessRaisedException) as error:
            # Another process may have failed first, in a collective call with the one that stopped.
            sentences = [file.read_text() for file in sorted(Path(folder).iterdir())]
            if not sentences:
                raise
            raise RunError(sentences[0]) from error


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


def _call(function: Callable, args: argparse.Namespace, folder: str) -> None:
    """In a process of its own an exception loses its type, so the sentence goes to a file."""
    try:
        function(args)
    except RunError as error:
        if comm.get_world_size() > 1:
            Path(folder, f"rank{comm.get_rank():05d}").write_text(str(error))
        raise
