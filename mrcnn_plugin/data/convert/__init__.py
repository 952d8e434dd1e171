"""Annotations of other tools as COCO json: one function a format, each returns the json's content.

`file_name` of every image is relative to the directory that is then the data set's `images`.
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
