"""Shows the progress of training in one line of the terminal."""

import logging
import shutil
import sys
import time
from datetime import timedelta
from typing import TextIO

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm, events
from detectron2.utils.events import EventStorage

try:
    import resource
except ImportError:  # not on Windows
    resource = None

_CLEAR = "\r\x1b[K"
_SECONDS_BETWEEN = 0.25


class ProgressLine(HookBase):
    """Rewrites one line of a terminal a few times per second.

    detectron2's line every 20 iterations then goes to `log.txt` only. If the stream is not a
    terminal, nothing is written and detectron2's lines are printed as usual.
    """

    def __init__(self, *, stream: TextIO | None = None):
        """
        Args:
            stream: the stream to write to; None is `sys.stdout`.
        """
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty() and comm.is_main_process()
        self.handlers: list[logging.Handler] = []
        self._written = 0.0

    def before_train(self):
        if not self.live:
            return
        detectron2 = logging.getLogger(events.__name__.removesuffix(".utils.events"))
        for logger in (detectron2, logging.getLogger("fvcore"), logging.getLogger("mrcnn_plugin")):
            self.handlers += [
                h for h in logger.handlers if getattr(h, "stream", None) is self.stream
            ]
        for handler in self.handlers:
            handler.addFilter(self._make_room)

    def after_step(self):
        now = time.perf_counter()
        if self.live and now - self._written >= _SECONDS_BETWEEN:
            self._written = now
            width = shutil.get_terminal_size().columns - 1
            line = progress_text(self.trainer.storage, self.trainer.max_iter)
            self.stream.write(_CLEAR + line[:width])
            self.stream.flush()

    def after_train(self):
        if self.live:
            self.stream.write(_CLEAR)
            for handler in self.handlers:
                handler.removeFilter(self._make_room)

    def _make_room(self, record: logging.LogRecord) -> bool:
        """Whether to print a record. The live line is cleared first."""
        if record.name.endswith("detectron2.utils.events"):
            return False
        self.stream.write(_CLEAR)
        return True


def progress_text(storage: EventStorage, max_iter: int) -> str:
    """The line, from the medians of the last 20 iterations. Values not known yet are omitted."""
    done = storage.iter + 1
    parts = [f"{done}/{max_iter} {100 * done // max_iter}%"]
    histories = storage.histories()
    if "time" in histories:
        seconds = histories["time"].median(20)
        remaining = timedelta(seconds=int(seconds * (max_iter - done)))
        parts += [f"eta {remaining}", f"{seconds:.3g} s/it"]
    if "data_time" in histories:
        parts.append(f"data {histories['data_time'].median(20):.2g}")
    if "total_loss" in histories:
        parts.append(f"loss {histories['total_loss'].median(20):.4g}")
    if "lr" in histories:
        parts.append(f"lr {histories['lr'].latest():.3g}")
    parts.append(memory_text())
    return "  ".join(filter(None, parts))


def memory_text() -> str:
    """The peak memory of the GPU, or of this process without a GPU; "" if it is not known."""
    if torch.cuda.is_available():
        return f"GPU {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    if resource is None:
        return ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    peak *= 1 if sys.platform == "darwin" else 1024
    return f"mem {peak / 2**30:.1f} GiB"
