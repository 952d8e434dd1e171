"""COCO json in memory: read, split by images, fit to a list of classes, hand to detectron2."""

import contextlib
import copy
import gc
import hashlib
import json
import os
from typing import Any

import pycocotools.mask as mask_utils
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

_REQUIRED = {
    "images": ("id", "file_name"),
    "annotations": ("id", "image_id", "category_id"),
    "categories": ("id", "name"),
}


class DataError(ValueError):
    """A data set that cannot be used at all; the message names the file and the mend."""


@contextlib.contextmanager
def without_gc():
    """Millions of lists that are no garbage: looking through them takes longer than the work."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def read_coco_json(json_file: str) -> dict[str, Any]:
    """Read a COCO instances json: a dict with the lists `images`, `annotations`, `categories`.

    A json without annotations, such as COCO's test-dev, gets an empty list of them.

    Raises:
        DataError: the file is missing, is not json, or lacks what every COCO json has.
    """
    if not PathManager.isfile(json_file):
        raise DataError(f"{json_file} does not exist (working directory: {os.getcwd()})")
    try:
        with without_gc(), PathManager.open(json_file) as file:
            content = json.load(file)
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError
        raise DataError(f"{json_file} is not json: {error}") from error
    _check_structure(content, json_file)
    return content


def _check_structure(content: Any, json_file: str) -> None:
    """Raise unless every record has the keys without which it stands for nothing."""
    if isinstance(content, dict) and "images" in content:
        content.setdefault("annotations", [])
    lists = content if isinstance(content, dict) else {}
    missing = [key for key in _REQUIRED if not isinstance(lists.get(key), list)]
    if missing:
        found = f"the keys {sorted(content)[:8]}" if isinstance(content, dict) else "a list"
        raise DataError(
            f"{json_file} is not COCO json: it lacks the list(s) {', '.join(missing)} and has "
            f"{found}. `mrcnn dataset convert` reads labelme, VIA and mask PNGs"
        )
    faults = []
    for section, keys in _REQUIRED.items():
        for index, record in enumerate(content[section]):
            absent = [k for k in keys if not isinstance(record, dict) or k not in record]
            if absent:
                faults.append(f"{section}[{index}] lacks {', '.join(absent)}")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise DataError(f"{json_file}: " + "; ".join(faults[:5]) + more)


def sorted_class_names(content: dict) -> list[str]:
    """Names in the order of category ids, which is detectron2's order of classes."""
    return [str(c["name"]) for c in sorted(content["categories"], key=lambda c: c["id"])]


def split_images(images: list[dict], fraction: float, seed: int) -> tuple[list[dict], list[dict]]:
    """Split images into (kept, held out), the same way whatever their order and ids in the file.

    Images are ranked by a hash of seed and file name; the first `fraction` of them, at least one
    and not all, are held out.

    Raises:
        DataError: fewer than two images, or a fraction outside (0, 1).
    """
    if not 0 < fraction < 1 or len(images) < 2:
        raise DataError(
            f"cannot hold out a fraction {fraction} of {len(images)} images: expected a number "
            "between 0 and 1, and two images or more"
        )

    def rank(image):
        return hashlib.sha256(f"{seed}/{image['file_name']}".encode()).digest()

    count = min(max(1, round(fraction * len(images))), len(images) - 1)
    held_out = {id(image) for image in sorted(images, key=rank)[:count]}
    return (
        [image for image in images if id(image) not in held_out],
        [image for image in images if id(image) in held_out],
    )


def select_images(content: dict, images: list[dict]) -> dict:
    """`content` with these images, their annotations, and those of images it does not have."""
    known = {image["id"] for image in content["images"]}
    gone = known - {image["id"] for image in images}
    kept = [a for a in content["annotations"] if a["image_id"] not in gone]
    return {**content, "images": images, "annotations": kept}


def to_detectron2(content: dict, image_root: str, name: str) -> list[dict]:
    """What `load_coco_json` returns, of a json in memory; sets the same metadata of `name`.

    Args:
        content: as `read_coco_json` returns it. Not changed; segmentations are shared with it.
        image_root: the directory `file_name`s start from.
        name: data set whose `thing_classes` and `thing_dataset_id_to_contiguous_id` are set.

    Returns:
        one dict an image in detectron2's format, sorted by image id.

    Raises:
        DataError: an annotation names a category that is not in the list.
    """
    category_ids = sorted(category["id"] for category in content["categories"])
    contiguous = {category_id: i for i, category_id in enumerate(category_ids)}
    MetadataCatalog.get(name).set(
        thing_classes=sorted_class_names(content), thing_dataset_id_to_contiguous_id=contiguous
    )
    records = {}
    for image in sorted(content["images"], key=lambda image: image["id"]):
        records[image["id"]] = {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [],
        }
    for annotation in content["annotations"]:
        record = records.get(annotation["image_id"])
        if annotation["category_id"] not in contiguous:
            raise DataError(
                f"data set '{name}', image {annotation['image_id']}, annotation "
                f"{annotation['id']}: category {annotation['category_id']} is not in the list "
                f"{category_ids}"
            )
        if record is not None:
            record["annotations"].append(_instance(annotation, contiguous))
    return list(records.values())


def _instance(annotation: dict, contiguous: dict) -> dict:
    instance = {k: annotation[k] for k in ("iscrowd", "bbox", "keypoints") if k in annotation}
    instance["category_id"] = contiguous[annotation["category_id"]]
    instance["bbox_mode"] = BoxMode.XYWH_ABS
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        segmentation = mask_utils.frPyObjects(segmentation, *segmentation["size"])
    if segmentation:
        instance["segmentation"] = segmentation
    if instance.get("keypoints"):  # pixel indices to coordinates, as detectron2 does
        keypoints = copy.copy(instance["keypoints"])
        instance["keypoints"] = [v + 0.5 if i % 3 != 2 else v for i, v in enumerate(keypoints)]
    return instance
