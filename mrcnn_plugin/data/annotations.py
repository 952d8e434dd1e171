"""Checks and mends of the annotations of a COCO json: ids, references, masks, boxes.

Every function takes the content of a json and the `Findings` it adds to. With `findings.mend` it
also changes the content's annotations, where that needs no guess.
"""

import math
from collections import Counter
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils

from .polygons import degenerate_polygons
from .problems import Findings

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
    fill_in(content, findings)


def check_header(content: dict, findings: Findings) -> None:
    """`info` and `licenses`, which pycocotools copies and some converters leave out."""
    for key, empty in (("info", {}), ("licenses", [])):
        if key not in content:
            findings.mended(
                f"no-{key}", f"lacks '{key}', a KeyError in pycocotools", "an empty one is used"
            )
            if findings.mend:
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


def check_masks(content: dict, findings: Findings) -> None:
    """Polygons and RLE: form, size, and that they enclose something."""
    sizes = _sizes(content)
    polygons, owners = [], []  # every polygon of the file, and the annotation it belongs to
    for index, annotation in enumerate(content["annotations"]):
        if index in findings.bad_annotations:
            continue
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, dict):
            fault = rle_fault(segmentation, list(sizes[annotation["image_id"]]))
            if fault:
                findings.bad_annotation(index, annotation, *fault)
        elif isinstance(segmentation, list) and segmentation:
            parts = _nested(segmentation, annotation, findings)
            polygons.extend(parts)
            owners.extend([index] * len(parts))
        else:
            fault = "has no segmentation"
            mend = "annotate its outline, or train on boxes alone: MODEL.MASK_ON False"
            findings.bad_annotation(index, annotation, "no-mask", fault, mend)
    _check_polygons(content, findings, polygons, np.array(owners, dtype=int))


def _nested(segmentation: list, annotation: dict, findings: Findings) -> list:
    """`[x, y, ...]` where `[[x, y, ...]]` is meant, as one polygon."""
    if not isinstance(segmentation[0], (int, float)):
        return segmentation
    ids = annotation["image_id"], annotation["id"]
    fault = "segmentation is a list of numbers, not of polygons"
    findings.mended("flat-polygon", fault, "taken as one polygon", *ids)
    if findings.mend:
        annotation["segmentation"] = [segmentation]
    return [segmentation]


def rle_fault(rle: dict, size: list[int]) -> tuple[str, str] | None:
    """(kind, fault) of a COCO RLE that should be of `size` (height, width), or None."""
    counts = rle.get("counts")
    if not isinstance(counts, (str, bytes, list)) or not isinstance(rle.get("size"), (list, tuple)):
        return "rle-form", f"an RLE needs 'size' and 'counts', this one has {sorted(rle)}"
    if list(rle["size"]) != size:
        return "rle-size", f"RLE is of (height, width) {list(rle['size'])}, its image of {size}"
    if isinstance(counts, list):
        if not all(isinstance(c, int) and c >= 0 for c in counts) or sum(counts) != math.prod(size):
            pixels = math.prod(size)
            return "rle-counts", f"RLE counts do not add up to the image's {pixels} pixels"
        empty = sum(counts[1::2]) == 0
    else:
        empty = mask_utils.area({"size": size, "counts": counts}) == 0
    return ("empty-mask", "the mask has no pixel") if empty else None


def _check_polygons(content, findings, polygons: list, owners: np.ndarray) -> None:
    degenerate = degenerate_polygons(polygons)
    for index in np.unique(owners[degenerate]).tolist():
        annotation = content["annotations"][index]
        mine = range(*np.searchsorted(owners, [index, index + 1]))  # owners are sorted
        good = [polygons[k] for k in mine if not degenerate[k]]
        fault = (
            f"{len(mine) - len(good)} of {len(mine)} polygons have fewer than 3 points, a value "
            "that is no number, or all points on one line"
        )
        if not good:
            findings.bad_annotation(index, annotation, "degenerate-polygon", fault)
            continue
        ids = annotation["image_id"], annotation["id"]
        findings.mended("degenerate-part", fault, "these parts enclose nothing: left out", *ids)
        if findings.mend:
            annotation["segmentation"] = good


def check_boxes(content: dict, findings: Findings, *, masks: bool) -> None:
    """Boxes that are missing, empty or out of the image.

    Args:
        content: a COCO json.
        findings: receives the problems.
        masks: whether masks have been checked: a box without area is then replaced by its mask's.
    """
    sizes = _sizes(content)
    for index, annotation in enumerate(content["annotations"]):
        if index in findings.bad_annotations:
            continue
        box = annotation.get("bbox")
        if not _is_box(box) or box[2] <= 0 or box[3] <= 0:
            box = _box_from_mask(index, annotation, findings, masks)
        if box is not None:
            _check_inside(index, annotation, findings, box, *sizes[annotation["image_id"]])


def _sizes(content: dict) -> dict[Any, tuple[int, int]]:
    """(height, width) by image id."""
    return {image["id"]: (image.get("height"), image.get("width")) for image in content["images"]}


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
    findings.mended("empty-box", fault, f"taken from its mask: {box}", *ids)
    if findings.mend:
        annotation["bbox"] = box
    return box


def mask_box(segmentation: list | dict) -> list[float]:
    """[x, y, width, height] around polygons of which one or more enclose something, or an RLE."""
    if isinstance(segmentation, dict):
        return mask_utils.toBbox(to_rle(segmentation, *segmentation["size"])).tolist()
    parts = [segmentation] if isinstance(segmentation[0], (int, float)) else segmentation
    good = [p for p, bad in zip(parts, degenerate_polygons(parts)) if not bad]
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in good])
    return [*points.min(0).tolist(), *np.ptp(points, axis=0).tolist()]


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
        findings.mended("box-over-edge", fault, f"clipped to {clipped}", *ids)
        if findings.mend:
            annotation["bbox"] = clipped


def fill_in(content: dict, findings: Findings) -> None:
    """`iscrowd` and `area`, which COCOeval reads of every annotation."""
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
        findings.mended("no-area", fault, "iscrowd 0, and the area of the mask or box, are used")
    if not findings.mend:
        return
    sizes = _sizes(content)
    for annotation in missing:
        annotation.setdefault("iscrowd", 0)
        annotation["area"] = annotation_area(annotation, *sizes[annotation["image_id"]])


def annotation_area(annotation: dict, height: int, width: int) -> float:
    """Pixels of an annotation's mask; of its box where it has none."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return float(annotation["bbox"][2] * annotation["bbox"][3])
    return float(mask_utils.area(to_rle(segmentation, height, width)))


def to_rle(segmentation: list | dict, height: int, width: int) -> dict:
    """Polygons, or RLE with or without compression, as one compressed RLE."""
    if isinstance(segmentation, list):
        return mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_utils.frPyObjects(segmentation, height, width)
    return segmentation


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
            findings.mended("annotation-id-form", f"id {number!r} is not an int", action, *ids)
        elif number == 0:
            fault = "id 0, which COCOeval takes for 'unmatched'"
            findings.mended("annotation-id-0", fault, action, *ids)
        elif uses[str(number)] > 1:
            fault = f"{uses[str(number)]} annotations have the id {number}"
            findings.mended("duplicate-annotation-id", fault, action, *ids)
        else:
            continue
        offending = True
    if offending and findings.mend:
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
