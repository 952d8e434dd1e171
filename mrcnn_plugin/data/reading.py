"""Names the image file when reading or mapping it fails during training, or skips it."""

import logging
import re
from collections.abc import Callable
from typing import Any

from ..errors import RunError
from .image_file import ImageFault, read_header

logger = logging.getLogger(__name__)


class ImageError(RunError):
    """An image of a dataset cannot be used. The message names its file, the fault and the fix.

    A `DataLoader` raises the errors of its worker processes again, with the traceback of the worker
    as their message. This class reduces such a message to the sentence it was raised with.
    """

    def __init__(self, message: str):
        if re.match(r"Caught \w+ in DataLoader worker", message):
            name = re.escape(f"{type(self).__module__}.{type(self).__qualname__}: ")
            found = re.findall(f"^{name}(.*)$", message, flags=re.MULTILINE)
            message = found[-1] if found else message
        super().__init__(message)


class ReportingMapper:
    """Wraps a mapper of a data loader, such as detectron2's `DatasetMapper`.

    Before an image is read, its header is checked as in `mrcnn dataset check`: a FIFO or device
    would wait for ever, and pixels of 16 bits would be clipped. That takes about 0.05 ms.

    Args:
        mapper: called with a dataset dict of detectron2; returns what the model is trained on. If
            it can be pickled, so can this object.
        skip: log an image that cannot be used and return None instead of raising. detectron2's
            `MapDataset` drops None if its dataset is iterable. For other datasets it tries to draw
            another image, which raises a TypeError from Python 3.11 on. `skipped` counts the images
            of this process.
    """

    def __init__(self, mapper: Callable[[dict], Any], *, skip: bool = False):
        self.mapper = mapper
        self.skip = skip
        self.skipped = 0

    def __call__(self, dataset_dict: dict) -> Any:
        """Map one dataset dict.

        Raises:
            ImageError: its file is not a readable image, or the mapper raised an exception.
        """
        try:
            return self._map(dataset_dict)
        except ImageError as error:
            if not self.skip:
                raise
            self.skipped += 1
            logger.warning(f"skipped, {self.skipped} so far in this process: {error}")
            return None

    def _map(self, dataset_dict: dict) -> Any:
        file_name = dataset_dict.get("file_name")
        if file_name is not None and "://" not in file_name:  # a URL is downloaded by the mapper
            try:
                read_header(file_name)
            except ImageFault as error:
                raise _named(dataset_dict, str(error)) from error
        try:
            return self.mapper(dataset_dict)
        except Exception as error:  # a mapper reads files and transforms whatever the data have
            logger.debug("A mapper failed:", exc_info=True)  # in log.txt: it may be a program error
            fault = f"reading or transforming it raised {type(error).__name__}: {error}"
            raise _named(dataset_dict, fault) from error


def _named(dataset_dict: dict, fault: str) -> ImageError:
    place = f"{dataset_dict.get('file_name')} (image {dataset_dict.get('image_id')})"
    advice = "Repair or remove it; `mrcnn dataset check JSON:IMAGES --full` lists all such images"
    return ImageError(f"{place}: {' '.join(fault.split())}. {advice}")
