"""What a run prints on the screen and writes to `OUTPUT_DIR/log.txt`."""

import logging
import sys
import warnings

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

# For `logger.info(text, extra=FILE_ONLY)`: long texts that log.txt has and the screen has not.
FILE_ONLY = {"file_only": True}

# Raised by detectron2 0.6 under current torch and numpy. A user can do nothing about them.
_NOISE = (
    "The given NumPy array is not writable",  # decoded RLE masks, which are copied afterwards
    "torch.meshgrid: in an upcoming release",  # its present default is what the anchors need
    "__array__ implementation doesn't accept a copy keyword",  # pycocotools
    "pkg_resources is deprecated",
    "`torch.jit.script` is deprecated",
    "No CUDA runtime is found",
)


def start_logging(output_dir: str | None) -> None:
    """Log detectron2, fvcore and this package, and hide warnings that nobody can act on.

    Args:
        output_dir: the folder of `log.txt`; None logs to the screen only.
    """
    for name in ({}, {"name": "fvcore"}, {"name": "mrcnn_plugin"}):  # {}: detectron2
        logger = setup_logger(output_dir, distributed_rank=comm.get_rank(), **name)
        _keep_long_texts_off_the_screen(logger)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)


def _keep_long_texts_off_the_screen(logger: logging.Logger) -> None:
    for handler in logger.handlers:
        if getattr(handler, "stream", None) is sys.stdout:
            handler.addFilter(_belongs_on_screen)


def _belongs_on_screen(record: logging.LogRecord) -> bool:
    return not getattr(record, "file_only", False)
