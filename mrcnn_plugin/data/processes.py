"""Work that one process does for all processes of a training."""

from collections.abc import Callable
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
