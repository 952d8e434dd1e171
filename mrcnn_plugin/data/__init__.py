"""The data sets that this project's configs name: drawn shapes, photographs of fruits and nuts."""

from .builtin import register_datasets
from .shapes import SHAPE_CLASSES, make_shapes

__all__ = ["SHAPE_CLASSES", "make_shapes", "register_datasets"]
