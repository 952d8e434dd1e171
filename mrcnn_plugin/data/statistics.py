"""What is in a data set: instances per class, their sizes, how many an image, how they overlap."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import pycocotools.mask as mask_utils
from detectron2.structures import BoxMode
from detectron2.structures.masks import polygon_area

from .coco_file import sorted_class_names
from .masks import to_rle

# COCO's limits of small, medium and large, in pixels of area.
SMALL, LARGE = 32**2, 96**2


class Instance(NamedTuple):
    """What is counted of an annotation.

    Attributes:
        class_name: None for a class without a name.
        box: x, y, width, height in pixels.
        area: pixels, of the mask if there is one.
    """

    class_name: str | None
    box: list[float]
    area: float


class DatasetStatistics(NamedTuple):
    """Counts of one data set; crowd regions are not instances."""

    num_crowds: int
    per_class: dict[str, int]  # instances, in the order of the classes
    images_per_class: dict[str, int]
    areas: np.ndarray  # (N,) pixels
    boxes: list[list[list[float]]]  # of each image: x, y, width, height of its instances

    @property
    def per_image(self) -> np.ndarray:
        """(images,) instances."""
        return np.array([len(boxes) for boxes in self.boxes], dtype=int)

    @property
    def sizes(self) -> dict[str, int]:
        """Instances below 32 x 32 pixels, from there to 96 x 96, above."""
        small, large = int((self.areas < SMALL).sum()), int((self.areas > LARGE).sum())
        return {"small": small, "medium": len(self.areas) - small - large, "large": large}

    @property
    def crowding(self) -> np.ndarray:
        """(N,) largest IoU with another box of the image, 0 alone."""
        return np.concatenate([largest_iou(boxes) for boxes in self.boxes] or [np.zeros(0)])

    def summary(self) -> dict:
        """Plain Python values: `images`, `empty_images`, `instances`; `classes` {name: instances};
        `sizes`; `per_image` {instances in an image: images}."""
        per_image = Counter(self.per_image.tolist())
        return {
            "images": len(self.boxes),
            "empty_images": per_image[0],
            "instances": len(self.areas),
            "classes": self.per_class,
            "sizes": self.sizes,
            "per_image": dict(sorted(per_image.items())),
        }


def coco_statistics(content: dict) -> DatasetStatistics:
    """Count a COCO json.

    Args:
        content: that the check found nothing unusable in.
    """
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    images: dict = {image["id"]: [] for image in content["images"]}
    for a in content["annotations"]:
        if not a.get("iscrowd"):
            instance = Instance(names[a["category_id"]], a["bbox"], a["area"])
            images[a["image_id"]].append(instance)
    num_crowds = sum(bool(a.get("iscrowd")) for a in content["annotations"])
    return _count([*images.values()], sorted_class_names(content), num_crowds)


def detectron2_statistics(dataset_dicts: list[dict], class_names: list[str]) -> DatasetStatistics:
    """Count a data set in detectron2's format.

    Args:
        dataset_dicts: with `annotations`, whose `category_id` is in [0, K).
        class_names: K names; fewer leave the instances of the other classes without a name.
    """
    names = dict(enumerate(class_names))
    images, num_crowds = [], 0
    for image in dataset_dicts:
        annotations = image.get("annotations", [])
        instances = [a for a in annotations if not a.get("iscrowd")]
        num_crowds += len(annotations) - len(instances)
        images.append([_instance(a, image, names) for a in instances])
    return _count(images, class_names, num_crowds)


def _instance(annotation: dict, image: dict, names: dict[int, str]) -> Instance:
    box = np.asarray(annotation["bbox"], dtype=float)[None]
    box = BoxMode.convert(box, annotation["bbox_mode"], BoxMode.XYWH_ABS)[0].tolist()
    mask = annotation.get("segmentation")
    if isinstance(mask, dict):
        area = float(mask_utils.area(to_rle(mask, image["height"], image["width"])))
    elif mask:
        polygons = (np.reshape(polygon, (-1, 2)).T for polygon in mask)
        area = float(sum(polygon_area(x, y) for x, y in polygons))
    else:
        area = box[2] * box[3]
    return Instance(names.get(annotation["category_id"]), box, area)


def _count(
    images: list[list[Instance]], class_names: list[str], num_crowds: int
) -> DatasetStatistics:
    instances = [instance for image in images for instance in image]
    count = Counter(instance.class_name for instance in instances)
    image_count = Counter(name for image in images for name in {i.class_name for i in image})
    return DatasetStatistics(
        num_crowds=num_crowds,
        per_class={name: count[name] for name in class_names},
        images_per_class={name: image_count[name] for name in class_names},
        areas=np.array([instance.area for instance in instances], dtype=float),
        boxes=[[instance.box for instance in image] for image in images],
    )


def largest_iou(boxes: list) -> np.ndarray:
    """(N,) of N boxes (x, y, width, height): the IoU with the other box that covers it most."""
    if len(boxes) < 2:
        return np.zeros(len(boxes))
    x1, y1, w, h = np.array(boxes, dtype=float).T
    x2, y2 = x1 + w, y1 + h
    width = np.minimum.outer(x2, x2) - np.maximum.outer(x1, x1)
    height = np.minimum.outer(y2, y2) - np.maximum.outer(y1, y1)
    overlap = width.clip(0) * height.clip(0)
    iou = overlap / (np.add.outer(w * h, w * h) - overlap)
    np.fill_diagonal(iou, 0)
    return iou.max(1)
