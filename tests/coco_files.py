"""A small COCO dataset on disk for tests to damage. Nothing here is an expected value."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SQUARE = [2, 2, 8, 2, 8, 6, 2, 6]  # a 6 x 4 rectangle from (2, 2)


def annotation(number, image_id, category_id=1, **changes):
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [2, 2, 6, 4],
        "area": 24,
        "iscrowd": 0,
        "segmentation": [SQUARE],
        **changes,
    }


def coco_content(num_images=3, *, classes=("disc", "ring"), width=20, height=10):
    """One instance per class in each image; annotations 1, 2 in image 1, 3, 4 in image 2."""
    images = [
        {"id": i, "file_name": f"{i}.png", "width": width, "height": height}
        for i in range(1, num_images + 1)
    ]
    annotations = [
        annotation(2 * i - 2 + c, i, c) for i in range(1, num_images + 1) for c in (1, 2)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    return {
        "info": {},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def save_image(path, width=20, height=10, *, seed=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path, **options)


def write_dataset(folder, content, *, images=True, size=(20, 10)) -> Path:
    """`folder/data.json`, with a different image file for every image of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.json").write_text(json.dumps(content))
    if images:
        for image in content["images"]:
            save_image(folder / image["file_name"], *size)
    return folder / "data.json"
