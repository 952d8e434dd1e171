"""What is in a data set: images, instances of each class, how large and how many to an image."""

from collections import Counter

import numpy as np
from detectron2.structures import BoxMode

SIZES = {"small": 32**2, "medium": 96**2, "large": float("inf")}  # upper areas, as COCO has them


def data_statistics(dataset_dicts: list[dict], class_names: list[str]) -> dict:
    """Counts of a data set in detectron2's format, as plain Python values.

    Args:
        dataset_dicts: with `annotations`, whose `category_id` is in [0, K).
        class_names: K names.

    Returns:
        `images`, `empty_images`, `instances`; `classes` {name: instances}; `sizes` {small, medium,
        large: instances} by box area, divided at 32^2 and 96^2 px; `per_image` {instances in an
        image: images}.
    """
    classes, sizes, per_image = Counter(), Counter(), Counter()
    for image in dataset_dicts:
        annotations = image.get("annotations", [])
        per_image[len(annotations)] += 1
        for annotation in annotations:
            classes[annotation["category_id"]] += 1
            sizes[_size(annotation)] += 1
    return {
        "images": len(dataset_dicts),
        "empty_images": per_image[0],
        "instances": classes.total(),
        "classes": {name: classes[index] for index, name in enumerate(class_names)},
        "sizes": {name: sizes[name] for name in SIZES},
        "per_image": dict(sorted(per_image.items())),
    }


def _size(annotation: dict) -> str:
    box = np.asarray(annotation["bbox"], dtype=float)
    _, _, width, height = BoxMode.convert(box[None], annotation["bbox_mode"], BoxMode.XYWH_ABS)[0]
    return next(name for name, upper in SIZES.items() if width * height < upper)
