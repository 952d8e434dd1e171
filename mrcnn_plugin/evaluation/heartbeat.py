"""Long work of rank 0, for which the other ranks wait with a heartbeat instead of a barrier."""

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from detectron2.utils import comm

from ..errors import RunError

T = TypeVar("T")

BEAT = 1.0  # seconds between two messages of rank 0
LOG_PERIOD = 60.0  # seconds between two lines in the log of a waiting rank

logger = logging.getLogger(__name__)


def run_on_rank_0(function: Callable[[], T]) -> T | None:
    """Run `function` on rank 0 while the other ranks wait, however long it takes.

    A thread of rank 0 sends a message to the other ranks every second, so no collective call comes
    near the timeout of the process group. The other ranks log once per minute that they wait. It is
    a collective call: every rank must make it. `function` must not make one itself.

    Returns:
        the result of `function` on rank 0, None on the other ranks.

    Raises:
        RunError: `function` raised one; every rank raises the same. Any other exception is raised
            as it is on rank 0, and as a `RunError` on the other ranks. If rank 0 is killed, the
            other ranks raise a `RunError` as soon as the connection breaks, at the latest after the
            timeout of the process group. If another rank is killed, rank 0 raises a `RunError` at
            the end of `function`.
    """
    if comm.get_world_size() == 1:
        return function()
    if comm.is_main_process():
        return _run_with_heartbeat(function)
    error = _wait_for_rank_0()
    if error:
        raise RunError(error)
    return None


def _run_with_heartbeat(function: Callable[[], T]) -> T:
    heart = _Heart()
    heart.start()
    try:
        result = function()
    except RunError as error:
        heart.stop(str(error))
        raise
    except BaseException as error:
        logger.exception("Rank 0 failed while the other processes waited for it:")
        heart.stop(f"rank 0 failed while the others waited for it: {error!r}")
        raise
    heart.stop("")
    if heart.lost:
        raise RunError(
            f"another process ended while rank 0 was working ({heart.lost}). Its log has the reason"
        )
    return result


class _Heart(threading.Thread):
    """Sends None to all ranks every `BEAT` seconds and finally the text of an error, or ""."""

    def __init__(self):
        super().__init__(daemon=True)
        self.lost: RuntimeError | None = None
        self._error = ""
        self._stopped = threading.Event()

    def run(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stopped.wait(BEAT)
            try:
                comm.all_gather(self._error if stopped else None)
            except RuntimeError as error:  # a rank is gone
                self.lost = error
                return

    def stop(self, error: str) -> None:
        self._error = error
        self._stopped.set()
        self.join()


def _wait_for_rank_0() -> str:
    """Wait for the last message of rank 0 and return it: the text of an error, or ""."""
    started = logged = time.monotonic()
    while True:
        try:
            message = comm.all_gather(None)[0]
        except RuntimeError as error:
            raise RunError(
                f"rank 0 ended or cannot be reached while the others waited for it ({error}). "
                "Check its log, and whether its machine ran out of memory"
            ) from error
        if message is not None:
            return message
        if time.monotonic() - logged >= LOG_PERIOD:
            logged = time.monotonic()
            logger.info(f"Waiting for rank 0, which evaluates since {logged - started:.0f} s")
