"""Converts annotations of other tools: one function per format that returns a COCO json.

The `file_name` of every image is relative to the image directory of the dataset.
"""

from .labelme import from_labelme
from .mask_png import from_instance_masks, from_voc
from .via import from_via

CONVERTERS = {
    "labelme": from_labelme,
    "via": from_via,
    "masks": from_instance_masks,
    "voc": from_voc,
}

__all__ = ["CONVERTERS", "from_instance_masks", "from_labelme", "from_via", "from_voc"]
