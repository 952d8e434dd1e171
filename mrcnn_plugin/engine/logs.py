"""What a run prints on the screen and writes to `OUTPUT_DIR/log.txt`.

The screen shows what a user acts on. Config, environment, model and what detectron2 reports about
its data loaders are in `log.txt` only, which has no terminal colors.
"""

import logging
import re
import sys
import warnings
from pathlib import Path

import detectron2
from detectron2.utils import comm
from termcolor import colored

from ..errors import RunError

# For `logger.info(text, extra=FILE_ONLY)`: long texts that log.txt has and the screen has not.
FILE_ONLY = {"file_only": True}

# `import detectron2` may be an alias of a copy inside another package, whose loggers have its name.
_LOGGERS = (detectron2.__name__, "fvcore", "mrcnn_plugin")
_FILE_ONLY_LOGGERS = ("detectron2.data.build", "detectron2.data.common", "detectron2.data.dataset_")
_LONGEST = 8  # lines; the screen shows the first line of longer messages of other packages
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_DATE = "%m/%d %H:%M:%S"

# Raised by detectron2 0.6 under current torch and numpy. A user can do nothing about them.
_NOISE = (
    "The given NumPy array is not writable",  # decoded RLE masks, which are copied afterwards
    "torch.meshgrid: in an upcoming release",  # its present default is what the anchors need
    "__array__ implementation doesn't accept a copy keyword",  # pycocotools
    "pkg_resources is deprecated",
    "`torch.jit.script` is deprecated",
)
_NOISY_LOGGERS = ("torch.fx._symbolic_trace", "torch.utils.cpp_extension")


def start_logging(output_dir: str | None) -> None:
    """Log detectron2, fvcore and this package, and hide warnings that nobody can act on.

    Calling it again replaces the handlers.

    Args:
        output_dir: the folder of `log.txt` (`log.txt.rankN` of other processes than the main one);
            None logs to the screen only.
    """
    handlers: list[logging.Handler] = []
    if comm.is_main_process():
        handlers.append(logging.StreamHandler(sys.stdout))
        handlers[-1].setFormatter(_ScreenFormatter())
        handlers[-1].addFilter(_belongs_on_screen)
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        suffix = "" if comm.is_main_process() else f".rank{comm.get_rank()}"
        handlers.append(_LogFile(Path(output_dir, f"log.txt{suffix}")))
        handlers[-1].setFormatter(_FileFormatter())
    for handler in handlers:
        handler.addFilter(_is_no_run_error)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for old in logger.handlers:
            old.close()
        logger.handlers = list(handlers)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)


def _belongs_on_screen(record: logging.LogRecord) -> bool:
    if record.levelno >= logging.WARNING:
        return True
    is_detail = record.levelno < logging.INFO or record.name.startswith(_FILE_ONLY_LOGGERS)
    return not (is_detail or getattr(record, "file_only", False))


def _is_no_run_error(record: logging.LogRecord) -> bool:
    """detectron2's trainer logs every exception with its traceback. A RunError is a sentence."""
    return not (record.exc_info and isinstance(record.exc_info[1], RunError))


class _LogFile(logging.FileHandler):
    """Reports a full disk once, in one line, instead of a traceback per message."""

    _has_failed = False

    def handleError(self, record):
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._has_failed:
            self._has_failed = True
            print(f"{self.baseFilename} can no longer be written: {error}", file=sys.stderr)


class _FileFormatter(logging.Formatter):
    def __init__(self):
        super().__init__("[%(asctime)s] %(name)s %(levelname)s: %(message)s", _DATE)

    def format(self, record):
        return _COLOR.sub("", super().format(record))


class _ScreenFormatter(logging.Formatter):
    """Shortens long messages that are neither results nor ours; colors the header on a terminal."""

    def __init__(self):
        super().__init__("%(message)s", _DATE)

    def format(self, record):
        text = super().format(record)
        lines = text.splitlines()
        is_ours = record.name.startswith("mrcnn_plugin") or ".evaluation." in record.name
        if len(lines) > _LONGEST and record.levelno < logging.ERROR and not is_ours:
            text = f"{lines[0]} ({len(lines)} lines, see log.txt)"
        header = f"[{self.formatTime(record, _DATE)} {record.name}]:"
        level = f"{record.levelname} " if record.levelno > logging.INFO else ""
        if not sys.stdout.isatty():
            return f"{header} {level}{_COLOR.sub('', text)}"
        return f"{colored(header, 'green')} {colored(level, 'red')}{text}"
