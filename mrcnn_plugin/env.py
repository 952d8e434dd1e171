"""Lets unmodified detectron2 programs use this plugin's components, config keys and datasets.

    DETECTRON2_ENV_MODULE=mrcnn_plugin.env python detectron2/tools/train_net.py --config-file ...

detectron2 calls `setup_environment` while it is imported, so this module imports the rest of the
plugin inside functions only.
"""

import os
from pathlib import Path


def setup_environment() -> None:
    """Register the components and datasets, and add the plugin's keys to the default config."""
    from detectron2.config.defaults import _C

    from mrcnn_plugin.config import add_mrcnn_config

    add_mrcnn_config(_C)
    _register_datasets()


def _register_datasets() -> None:
    """Register the datasets that this project's configs name, under `DETECTRON2_DATASETS`.

    Drawn shapes are drawn when they are first loaded, not here.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances

    from mrcnn_plugin.data.builtin import SHAPES

    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    fruits = root / "fruits_nuts"
    register_coco_instances(
        "fruits_nuts", {}, str(fruits / "trainval.json"), str(fruits / "images")
    )
    for name, (num_images, seed) in SHAPES.items():
        folder = root / "shapes" / name
        json_file = folder / f"{num_images}_seed{seed}.json"
        DatasetCatalog.register(name, lambda n=name, j=json_file: _load_shapes(n, j))
        MetadataCatalog.get(name).set(
            json_file=str(json_file), image_root=str(folder), evaluator_type="coco"
        )


def _load_shapes(name: str, json_file: Path) -> list[dict]:
    """Load a dataset of drawn shapes; the first process that needs it draws it."""
    from detectron2.data.datasets import load_coco_json
    from iopath.common.file_io import file_lock

    from mrcnn_plugin.data.builtin import SHAPES
    from mrcnn_plugin.data.shapes import make_shapes

    json_file.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(str(json_file)):
        if not json_file.exists():
            num_images, seed = SHAPES[name]
            make_shapes(json_file, num_images, seed=seed)
    return load_coco_json(str(json_file), str(json_file.parent), name)
