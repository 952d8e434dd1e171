"""Datasets: COCO json in, checked COCO json out.

`spec` and `declare` read what the user wrote, `check` (with `images`, `annotations`, `masks`)
validates it, `prepare` writes and registers the result, `convert` reads other formats, `statistics`
counts, and `shapes` draws a small dataset. docs/custom_data.md shows the commands.
"""

from .builtin import register_builtin_datasets
from .check import check_content
from .coco_file import DataError, make_evaluable, read_coco_json
from .findings import Findings
from .masks import check_masks
from .prepare import prepare_datasets, register_datasets
from .shapes import SHAPE_CLASSES, make_shapes
from .statistics import coco_statistics, read_statistics

__all__ = [
    "SHAPE_CLASSES",
    "DataError",
    "Findings",
    "check_content",
    "check_masks",
    "coco_statistics",
    "make_evaluable",
    "make_shapes",
    "prepare_datasets",
    "read_coco_json",
    "read_statistics",
    "register_builtin_datasets",
    "register_datasets",
]
