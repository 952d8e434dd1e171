"""What a run writes on the screen and into `OUTPUT_DIR/log.txt`."""

import warnings

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

# Raised by detectron2 0.6 under current torch and numpy, once a process; nothing is wrong.
_HARMLESS = (
    "The given NumPy array is not writable",  # decoded RLE masks, which are copied afterwards
    "torch.meshgrid: in an upcoming release",  # its default there is what the anchors need
    "__array__ implementation doesn't accept a copy keyword",  # pycocotools
)


def start_logging(output_dir: str | None) -> None:
    """Log this package as detectron2 logs itself, and hide three warnings that say nothing.

    Args:
        output_dir: where `log.txt` goes; None: the screen alone.
    """
    setup_logger(output_dir, distributed_rank=comm.get_rank(), name="mrcnn_plugin")
    for message in _HARMLESS:
        warnings.filterwarnings("ignore", message=message)
