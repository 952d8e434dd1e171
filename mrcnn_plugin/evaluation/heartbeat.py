"""Long work of rank 0, for which the other ranks wait with a heartbeat instead of a barrier."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from detectron2.utils import comm

from ..errors import RunError

T = TypeVar("T")

BEAT = 1.0  # seconds between two messages of rank 0
LAST_BEAT = 10.0  # seconds in which rank 0 tries to tell the others its error
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
        RunError: `function` raised one; every rank raises the same, as after an interruption
            (KeyboardInterrupt, SystemExit or another exception that is no `Exception`). Any other
            error is raised as it is on rank 0, and as a `RunError` on the other ranks. If rank 0 is
            killed, the others raise a `RunError` as soon as the connection breaks, at the latest
            after the timeout of the process group. If another rank is killed, rank 0 raises a
            `RunError` at the end of `function`.
    """
    if comm.get_world_size() == 1:
        return function()
    if comm.is_main_process():
        return _run_with_heartbeat(function)
    error = _wait_for_rank_0()
    if error is not None:
        raise error
    return None


def _run_with_heartbeat(function: Callable[[], T]) -> T:
    heart = _Heart()
    heart.start()
    try:
        result = function()
    except RunError as error:
        heart.stop(error)
        raise
    except Exception as error:
        logger.exception("Rank 0 failed while the other processes waited for it:")
        heart.stop(RunError(f"rank 0 failed while the others waited for it: {error!r}"))
        raise
    except BaseException as error:
        heart.stop(error)
        raise
    heart.stop(None)
    if heart.lost:
        raise RunError(
            f"another process ended while rank 0 was working ({heart.lost}). Its log has the reason"
        )
    return result


@dataclass(frozen=True)
class _Beat:
    """A message of rank 0: whether it has finished, and with which error."""

    finished: bool = False
    error: BaseException | None = None


class _Heart(threading.Thread):
    """Sends a `_Beat` to all ranks every `BEAT` seconds, and a last one when it is stopped."""

    def __init__(self):
        super().__init__(daemon=True)
        self.lost: RuntimeError | None = None
        self._last = _Beat()
        self._stopped = threading.Event()

    def run(self) -> None:
        beat = _Beat()
        while not beat.finished:
            beat = self._last if self._stopped.wait(BEAT) else beat
            try:
                comm.all_gather(beat)
            except RuntimeError as error:  # a rank is gone
                self.lost = error
                return

    def stop(self, error: BaseException | None) -> None:
        self._last = _Beat(finished=True, error=error)
        self._stopped.set()
        # After an interruption of all processes the others may no longer receive anything.
        self.join(None if error is None else LAST_BEAT)


def _wait_for_rank_0() -> BaseException | None:
    """Wait for the last message of rank 0 and return its error."""
    started = logged = time.monotonic()
    while True:
        try:
            beat = comm.all_gather(None)[0]
        except RuntimeError as error:
            raise RunError(
                f"rank 0 ended or cannot be reached while the others waited for it ({error}). "
                "Check its log, and whether its machine ran out of memory"
            ) from error
        if beat.finished:
            return beat.error
        if time.monotonic() - logged >= LOG_PERIOD:
            logged = time.monotonic()
            logger.info(f"Waiting for rank 0, which evaluates since {logged - started:.0f} s")
