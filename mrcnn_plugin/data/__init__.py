"""Data sets of this project: drawn shapes, and names for photographs under DETECTRON2_DATASETS."""

from .builtin import register_fruits_nuts
from .shapes import SHAPE_CLASSES, make_shapes, register_shapes

__all__ = ["SHAPE_CLASSES", "make_shapes", "register_fruits_nuts", "register_shapes"]
