"""Ends a run on SIGTERM, SIGINT or SIGUSR1 with a checkpoint to resume from.

Schedulers send SIGTERM, or a signal of the user's choice, some time before they kill a job.
"""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator

logger = logging.getLogger(__name__)

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command with --resume continues
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Interrupted(BaseException):
    """Raised by a signal in work that is repeated on resume."""


class Stopped(SystemExit):
    """A run has ended because of a signal. The status is 130 after Ctrl-C and 75 otherwise."""

    def __init__(self, number: int):
        super().__init__(130 if number == signal.SIGINT else STOPPED)


class StopSignals:
    """A context in which signals ask for the end of the run instead of killing it.

    A second Ctrl-C raises KeyboardInterrupt. Signals are not handled if the context is entered in
    another thread than the main one, where Python cannot handle them.

    Attributes:
        received: the number of the first signal, or None.
    """

    def __init__(self):
        self.received: int | None = None
        self._raises = False
        self._previous: dict = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._handle) for s in _SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """A context in which a signal raises `Interrupted` at once, as does an earlier one."""
        if self.received is not None:
            raise Interrupted
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def _handle(self, number: int, _) -> None:
        again = self.received is not None
        self.received = self.received or number
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not again:
            when = "now" if self._raises else "after this iteration"
            logger.warning(f"{signal.Signals(number).name} received: the run ends {when}")
        if self._raises:
            self._raises = False
            raise Interrupted
