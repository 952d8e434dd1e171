"""Checks and mends of the annotations of a COCO json: ids, references, boxes. Masks: masks.py.

Every function takes the content of a json and the `Findings` it adds to. With `findings.repair` it
also changes the content's annotations, where that needs no guess.
"""

import math
from collections import Counter
from typing import Any

from .findings import Findings
from .masks import annotation_area, check_masks, image_sizes, mask_box

_EDGE = 1.0  # pixels: how far a box may reach over the edge by rounding, as many of COCO's do


def check_annotations(content: dict, findings: Findings, *, masks: bool) -> None:
    """Look at every annotation; mend it, or note it as unusable.

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
    """`info` and `licenses`, which pycocotools copies and some converters leave out."""
    for key, empty in (("info", {}), ("licenses", [])):
        if key not in content:
            findings.repaired(
                f"no-{key}", f"lacks '{key}', a KeyError in pycocotools", "an empty one is used"
            )
            if findings.repair:
                content[key] = empty


def check_references(content: dict, findings: Findings) -> None:
    """Annotations of images or categories that do not exist, or marked `ignore`."""
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
            fault = "is marked 'ignore', which detectron2 refuses"
            findings.bad_annotation(index, annotation, "ignore", fault, "iscrowd is what it knows")


def check_boxes(content: dict, findings: Findings, *, masks: bool) -> None:
    """Boxes that are missing, empty or out of the image.

    Args:
        content: a COCO json.
        findings: receives the problems.
        masks: whether masks have been checked: a box without area is then replaced by its mask's.
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
    """The box around the mask, in place of one without area; None (and noted) without a mask."""
    fault = f"box {annotation.get('bbox')} (x, y, width, height) has no area"
    box = mask_box(annotation["segmentation"]) if masks else None
    if box is None or box[2] <= 0 or box[3] <= 0:
        findings.bad_annotation(index, annotation, "empty-box", fault)
        return None
    ids = annotation["image_id"], annotation["id"]
    findings.repaired("empty-box", fault, f"taken from its mask: {box}", *ids)
    if findings.repair:
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
        fault = f"box {box} (x, y, width, height) reaches over the {width} x {height} image"
        ids = annotation["image_id"], annotation["id"]
        findings.repaired("box-over-edge", fault, f"clipped to {clipped}", *ids)
        if findings.repair:
            annotation["bbox"] = clipped


def fill_in(content: dict, findings: Findings, *, masks: bool) -> None:
    """`iscrowd` and `area`, which COCOeval reads; `masks` as in `check_boxes`."""
    good = (
        annotation
        for index, annotation in enumerate(content["annotations"])
        if index not in findings.bad_annotations
    )
    missing = [a for a in good if "iscrowd" not in a or not isinstance(a.get("area"), (int, float))]
    without = Counter(k for a in missing for k in ("iscrowd", "area") if k not in a)
    if without:
        text = ", ".join(f"{count} without '{key}'" for key, count in without.items())
        fault = f"annotations {text}, a KeyError in COCOeval"
        findings.repaired("no-area", fault, "iscrowd 0, and the area of the mask or box, are used")
    if not findings.repair:
        return
    sizes = image_sizes(content)
    for annotation in missing:
        annotation.setdefault("iscrowd", 0)
        if masks:
            annotation["area"] = annotation_area(annotation, *sizes[annotation["image_id"]])
        else:
            annotation["area"] = float(annotation["bbox"][2] * annotation["bbox"][3])


def renumber(content: dict, findings: Findings) -> None:
    """Annotation ids that are 0, used twice or not whole numbers: numbered from 1 instead.

    Nothing refers to these ids. COCOeval writes id 0 for "unmatched", so that perfect detections
    would score below 100; detectron2 refuses ids that are used twice.
    """
    annotations = content["annotations"]
    uses = Counter(str(annotation["id"]) for annotation in annotations)
    offending = False
    for annotation in annotations:
        number = annotation["id"]
        ids = annotation["image_id"], number
        action = "annotations are numbered from 1"
        if not isinstance(number, int):
            findings.repaired("annotation-id-form", f"id {number!r} is not an int", action, *ids)
        elif number == 0:
            fault = "id 0, which COCOeval takes for 'unmatched'"
            findings.repaired("annotation-id-0", fault, action, *ids)
        elif uses[str(number)] > 1:
            fault = f"{uses[str(number)]} annotations have the id {number}"
            findings.repaired("duplicate-annotation-id", fault, action, *ids)
        else:
            continue
        offending = True
    if offending and findings.repair:
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
