"""Work that one process does for all processes of a training."""

import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from detectron2.utils import comm

from ..errors import RunError

T = TypeVar("T")


def run_on_main_process(function: Callable[[], T]) -> T:
    """Run `function` on rank 0 while the other ranks wait, and return its result on every rank.

    The result must be picklable. It is a collective call: every rank must make it.

    Raises:
        RunError: `function` raised one; every rank raises the same. Any other exception is raised
            as it is on rank 0, and as a `RunError` on the other ranks, so that no rank waits.
    """
    result = error = shared = None
    if comm.is_main_process():
        try:
            result = function()
        except RunError as raised:
            error = shared = raised
        except Exception as raised:
            error, shared = raised, RunError(f"the main process failed: {raised!r}")
    result, shared = comm.all_gather((result, shared))[0]
    if error or shared:
        raise error or shared
    return result


def require_shared(files: Iterable[Path]) -> None:
    """Raise a `RunError` on every rank if one of them cannot read what rank 0 has written."""
    missing = [str(file) for file in files if not file.exists()]
    for host, paths in comm.all_gather((socket.gethostname(), missing)):
        if paths:
            raise RunError(
                f"{paths[0]}, written by the main process, does not exist on machine {host}. "
                "OUTPUT_DIR must be a directory that all machines share"
            )
