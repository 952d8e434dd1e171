"""Names for data sets of photographs in COCO's format that lie under `DETECTRON2_DATASETS`."""

import os

from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances


def register_fruits_nuts() -> None:
    """Register `fruits_nuts`: 18 photographs of dates, figs and hazelnuts, as

        $DETECTRON2_DATASETS/fruits_nuts/trainval.json
        $DETECTRON2_DATASETS/fruits_nuts/images/*.jpg

    (the `data/` of github.com/Tony607/mmdetection_instance_segmentation_demo). Nothing is read
    until it is used; registering twice does nothing.
    """
    if "fruits_nuts" not in DatasetCatalog:
        root = os.path.join(os.environ.get("DETECTRON2_DATASETS", "datasets"), "fruits_nuts")
        register_coco_instances(
            "fruits_nuts", {}, os.path.join(root, "trainval.json"), os.path.join(root, "images")
        )
