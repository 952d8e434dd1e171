"""The datasets that this project's configs name, under `$DETECTRON2_DATASETS`."""

import functools
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from iopath.common.file_io import file_lock

from .shapes import make_shapes

logger = logging.getLogger(__name__)

SHAPES = {"shapes_train": (1500, 1), "shapes_val": (100, 2)}  # images, seed
BUILTIN = (*SHAPES, "fruits_nuts")


def register_builtin_datasets(names: Iterable[str] = BUILTIN) -> None:
    """Register those of `names` that this project defines and that are not registered yet.

    * `shapes_train`, `shapes_val`: drawn into `$DETECTRON2_DATASETS/shapes/` when they are first
      loaded.
    * `fruits_nuts`: 18 images of dates, figs and hazelnuts, the `data/` directory of
      github.com/Tony607/mmdetection_instance_segmentation_demo, as `fruits_nuts/trainval.json` and
      `fruits_nuts/images/` under `$DETECTRON2_DATASETS`.
    """
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    for name in names:
        if name not in BUILTIN or name in DatasetCatalog:
            continue
        if name in SHAPES:
            num_images, seed = SHAPES[name]
            json_file = root / "shapes" / name / f"{num_images}_seed{seed}.json"
            image_root = json_file.parent
        else:
            json_file, image_root = root / name / "trainval.json", root / name / "images"
        DatasetCatalog.register(name, functools.partial(_load, name))
        MetadataCatalog.get(name).set(
            json_file=str(json_file), image_root=str(image_root), evaluator_type="coco"
        )


def draw_shapes(names: Iterable[str]) -> None:
    """Draw those of `names` that are registered drawn shapes, unless they exist."""
    for name in SHAPES.keys() & set(names):
        _draw(name)


def _load(name: str) -> list[dict]:
    if name in SHAPES:
        _draw(name)
    metadata = MetadataCatalog.get(name)
    return load_coco_json(metadata.json_file, metadata.image_root, name)


def _draw(name: str) -> None:
    """Draw a dataset once, whichever process comes first."""
    json_file = Path(MetadataCatalog.get(name).json_file)
    if json_file.exists():
        return
    json_file.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(str(json_file)):
        if not json_file.exists():
            num_images, seed = SHAPES[name]
            logger.info(f"Drawing {num_images} images of shapes into {json_file.parent} ...")
            make_shapes(json_file, num_images, seed=seed)
