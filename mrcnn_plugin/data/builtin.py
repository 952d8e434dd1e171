"""Data sets that this project's configs name, under `DETECTRON2_DATASETS` like detectron2's own."""

import logging
import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.utils import comm

from .declared import declared_names, find_declared, register_declared
from .shapes import make_shapes

logger = logging.getLogger(__name__)

SHAPES = {"shapes_train": (1500, 1), "shapes_val": (100, 2)}  # pictures, seed


def register_datasets(cfg: CfgNode) -> None:
    """Register the data sets that `cfg.DATASETS` names and this project knows; twice does nothing.

    * what `DATASETS.FILES` declares, as a saved `config.yaml` does;
    * `shapes_train`, `shapes_val`: drawn into `$DETECTRON2_DATASETS/shapes/` the first time.
    * `fruits_nuts`: 18 photographs of dates, figs and hazelnuts, the `data/` directory of
      github.com/Tony607/mmdetection_instance_segmentation_demo, as `fruits_nuts/trainval.json` and
      `fruits_nuts/images/` under `$DETECTRON2_DATASETS`.
    """
    if any(find_declared(name) is None for name in declared_names(cfg)):
        register_declared(cfg)
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    for name in dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        if name in DatasetCatalog:
            continue
        if name in SHAPES:
            json_file = _draw_once(name, root / "shapes" / name)
            register_coco_instances(name, {}, str(json_file), str(json_file.parent))
        elif name == "fruits_nuts":
            folder = root / "fruits_nuts"
            register_coco_instances(name, {}, str(folder / "trainval.json"), str(folder / "images"))


def _draw_once(name: str, folder: Path) -> Path:
    num_images, seed = SHAPES[name]
    json_file = folder / f"{num_images}_seed{seed}.json"
    if comm.is_main_process() and not json_file.exists():
        logger.info(f"Drawing {num_images} pictures of shapes into {folder} ...")
        make_shapes(json_file, num_images, seed=seed)
    comm.synchronize()
    return json_file
