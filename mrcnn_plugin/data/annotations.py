"""Checks and repairs the annotations of a COCO json: ids, references and boxes.

Every function receives the content of a json and the `Findings` that it adds to. Annotations that
have only one possible repair are changed in the content. Masks are checked in masks.py.
"""

import math
from collections import Counter
from typing import Any

from .coco_file import has_bad_ids
from .findings import Findings
from .masks import annotation_area, check_masks, image_sizes, mask_box

_EDGE = 1.0  # pixels that a box may extend over the edge by rounding, as many boxes of COCO do


def check_annotations(content: dict, findings: Findings, *, masks: bool) -> None:
    """Check every annotation; repair it or report it as unusable.

    Args:
        content: a COCO json whose images have `width` and `height`.
        findings: receives the problems; unusable annotations by their position in the list.
        masks: whether segmentations are used (`MODEL.MASK_ON`).
    """
    check_header(content, findings)
    check_references(content, findings)
    measured = {i["id"] for i in content["images"] if i.get("width") and i.get("height")}
    findings.bad_annotations.update(
        k for k, a in enumerate(content["annotations"]) if a["image_id"] not in measured
    )
    if masks:
        check_masks(content, findings)
    check_boxes(content, findings, masks=masks)
    fill_in(content, findings, masks=masks)


def check_header(content: dict, findings: Findings) -> None:
    """Report missing `info` and `licenses`, which `make_evaluable` adds for pycocotools."""
    for key in ("info", "licenses"):
        if key not in content:
            fault = f"lacks '{key}', which raises a KeyError in pycocotools"
            findings.repaired(f"no-{key}", fault, "an empty one is used")


def check_references(content: dict, findings: Findings) -> None:
    """Report annotations of unknown images or categories, and those marked `ignore`."""
    images = {image["id"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    names = f"the file's ids are {sorted(categories, key=str)}"
    for index, annotation in enumerate(content["annotations"]):
        if annotation["image_id"] not in images:
            fault = f"there is no image {annotation['image_id']} in the file"
            findings.bad_annotation(index, annotation, "unknown-image", fault)
        elif annotation["category_id"] not in categories:
            fault = f"category {annotation['category_id']} is not in the file's categories"
            findings.bad_annotation(index, annotation, "unknown-category", fault, names)
        elif annotation.get("ignore"):
            fault = "is marked 'ignore', which detectron2 does not support"
            findings.bad_annotation(index, annotation, "ignore", fault, "use iscrowd instead")


def check_boxes(content: dict, findings: Findings, *, masks: bool) -> None:
    """Check for boxes that are missing, empty or outside the image.

    Args:
        content: a COCO json.
        findings: receives the problems.
        masks: whether masks have been checked. If so, the box of the mask replaces a box without
            area.
    """
    sizes = image_sizes(content)
    for index, annotation in enumerate(content["annotations"]):
        if index in findings.bad_annotations:
            continue
        box = annotation.get("bbox")
        if not _is_box(box) or box[2] <= 0 or box[3] <= 0:
            box = _box_from_mask(index, annotation, findings, masks)
        if box is not None:
            _check_inside(index, annotation, findings, box, *sizes[annotation["image_id"]])


def _is_box(box: Any) -> bool:
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return False
    try:
        return math.isfinite(sum(box))
    except TypeError:  # None, a string
        return False


def _box_from_mask(index, annotation, findings, masks) -> list[float] | None:
    """The box around the mask, to replace one without area. Without a mask, None (and reported)."""
    fault = f"box {annotation.get('bbox')} (x, y, width, height) has no area"
    box = mask_box(annotation["segmentation"]) if masks else None
    if box is None or box[2] <= 0 or box[3] <= 0:
        findings.bad_annotation(index, annotation, "empty-box", fault)
        return None
    ids = annotation["image_id"], annotation["id"]
    findings.repaired("empty-box", fault, f"taken from its mask: {box}", *ids)
    annotation["bbox"] = box
    return box


def _check_inside(index, annotation, findings, box, height, width) -> None:
    x, y, w, h = box
    if x >= 0 and y >= 0 and x + w <= width + _EDGE and y + h <= height + _EDGE:
        return
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        fault = f"box {box} (x, y, width, height) is outside the {width} x {height} image"
        findings.bad_annotation(index, annotation, "box-outside", fault)
        return
    if x < -_EDGE or y < -_EDGE or x + w > width + _EDGE or y + h > height + _EDGE:
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        clipped = [x1, y1, x2 - x1, y2 - y1]
        fault = f"box {box} (x, y, width, height) exceeds the {width} x {height} image"
        ids = annotation["image_id"], annotation["id"]
        findings.repaired("box-over-edge", fault, f"clipped to {clipped}", *ids)
        annotation["bbox"] = clipped


def fill_in(content: dict, findings: Findings, *, masks: bool) -> None:
    """Add missing `iscrowd` and `area`, which COCOeval reads; `masks` as in `check_boxes`."""
    good = (
        annotation
        for index, annotation in enumerate(content["annotations"])
        if index not in findings.bad_annotations
    )
    missing = [a for a in good if "iscrowd" not in a or not isinstance(a.get("area"), (int, float))]
    without = Counter(k for a in missing for k in ("iscrowd", "area") if k not in a)
    if without:
        text = ", ".join(f"{count} without '{key}'" for key, count in without.items())
        fault = f"annotations {text}, which raises a KeyError in COCOeval"
        findings.repaired("no-area", fault, "iscrowd 0 and the area of the mask or box are used")
    sizes = image_sizes(content)
    for annotation in missing:
        annotation.setdefault("iscrowd", 0)
        if masks:
            annotation["area"] = annotation_area(annotation, *sizes[annotation["image_id"]])
        else:
            annotation["area"] = float(annotation["bbox"][2] * annotation["bbox"][3])


def check_annotation_ids(content: dict, findings: Findings) -> None:
    """Report ids that are 0, not unique or no integers; `make_evaluable` repairs them."""
    annotations = content["annotations"]
    if not has_bad_ids(annotations):
        return
    uses = Counter(str(annotation["id"]) for annotation in annotations)
    for annotation in annotations:
        number = annotation["id"]
        if not isinstance(number, int):
            kind, fault = "annotation-id-form", f"id {number!r} is not an integer"
        elif number == 0:
            kind, fault = "annotation-id-0", "id 0, which means 'unmatched' in COCOeval"
        elif uses[str(number)] > 1:
            kind = "duplicate-annotation-id"
            fault = f"{uses[str(number)]} annotations have the id {number}"
        else:
            continue
        action = "annotations are renumbered from 1"
        findings.repaired(kind, fault, action, annotation["image_id"], number)
