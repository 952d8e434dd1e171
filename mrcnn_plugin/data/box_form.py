"""Finds datasets whose boxes or masks are all written in another form than COCO's."""

import math
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils

from .findings import Findings
from .masks import EDGE, image_sizes, mask_box
from .records import shown

_NUMBERS = frozenset((int, float))
_SAMPLE = 1000  # boxes per dataset; a wrong form is that of all boxes
_TOLERANCE = 2.0  # pixels between a corner of a box and of its mask
_MIN_IOU = 0.5  # of a box and the box of its mask
_FEW, _MANY = 2, 0.1  # number and share of boxes below it that are not reported
_MIN_SIDE = 16  # pixels of an image; below it, a box of one pixel is nothing unusual


def is_box(box: Any) -> bool:
    """Whether a value of a json is a list of four finite numbers."""
    if (
        not isinstance(box, (list, tuple))
        or len(box) != 4
        or not _NUMBERS.issuperset(map(type, box))
    ):
        return False
    try:
        return math.isfinite(sum(box))
    except OverflowError:  # an integer of more than 308 digits
        return False


def check_box_form(content: dict, findings: Findings, *, masks: bool) -> None:
    """Report corners `[x1, y1, x2, y2]`, normalised coordinates, and boxes far from their masks.

    COCO's form is `[x, y, width, height]` in pixels. Others pass for such boxes, only in the wrong
    place, and train a model that detects nothing.

    Args:
        content: a COCO json.
        findings: receives an error if more than half of a sample has another form, and a warning if
            more than a tenth (and than two) contradict their masks otherwise.
        masks: whether masks have been checked; only they can tell that boxes are corners.
    """
    annotations = content["annotations"]
    sample = [
        annotations[index]
        for index in range(0, len(annotations), max(1, len(annotations) // _SAMPLE))
        if index not in findings.bad_annotations and is_box(annotations[index].get("bbox"))
    ]
    sizes = image_sizes(content)
    if _report_normalised("boxes", [(a["bbox"], sizes[a["image_id"]]) for a in sample], findings):
        return
    if masks:
        around = [mask_box(a["segmentation"]) for a in sample]
        shapes = [(box, sizes[a["image_id"]]) for box, a in zip(around, sample)]
        if not _report_normalised("masks", shapes, findings):
            _compare_with_masks([(a["bbox"], box) for a, box in zip(sample, around)], findings)


def _report_normalised(what: str, boxes: list[tuple], findings: Findings) -> bool:
    """Report coordinates from 0 to 1; `boxes` are with the (height, width) of their image."""
    small = [box for box, size in boxes if max(box) <= 1 and min(size) >= _MIN_SIDE]
    if 2 * len(small) <= len(boxes):
        return False
    findings.error(
        f"normalised-{what}",
        f"{len(small)} of {len(boxes)} sampled {what} have only values up to 1, such as "
        f"{small[0]}; expected pixels",
        action="multiply coordinates by the width and height of the image",
    )
    return True


def _compare_with_masks(pairs: list[tuple], findings: Findings) -> None:
    """Report (box, box around its mask) that contradict each other."""
    corners = [(box, around) for box, around in pairs if _is_corners(box, around)]
    other = [
        (box, around)
        for box, around in pairs
        if min(box[2:]) > 0 and mask_utils.iou(np.array([box]), np.array([around]), [0]) < _MIN_IOU
    ]
    fix = "write the boxes of the masks by " + (
        "`mrcnn dataset check JSON:IMAGES --boxes-from-masks --write NEW_JSON`"
    )
    if 2 * len(corners) > len(pairs):
        fault = f"{len(corners)} of {len(pairs)} sampled boxes are [x1, y1, x2, y2]"
        findings.error(
            "boxes-are-corners",
            f"{fault}, such as {corners[0][0]} around a mask in {corners[0][1]} (x, y, width, "
            "height)",
            action=f"subtract x1, y1 from x2, y2, or {fix}",
        )
    elif len(other) > max(_FEW, _MANY * len(pairs)):
        fault = f"{len(other)} of {len(pairs)} sampled boxes overlap the box of their mask little"
        findings.warning(
            "boxes-contradict-masks",
            f"{fault}, such as {other[0][0]} and {other[0][1]} (x, y, width, height)",
            action=f"verify with `mrcnn dataset draw` which is right; if it is the masks, {fix}",
        )


def boxes_from_masks(content: dict, findings: Findings) -> None:
    """Replace boxes that differ by more than a pixel from the box of their (checked) mask.

    Parts of an outline that are outside of the image do not count.
    """
    sizes = image_sizes(content)
    replaced = []
    for index, annotation in enumerate(content["annotations"]):
        if index in findings.bad_annotations:
            continue
        height, width = sizes[annotation["image_id"]]
        x, y, w, h = mask_box(annotation["segmentation"])
        left, top = max(x, 0), max(y, 0)
        expected = [left, top, min(x + w, width) - left, min(y + h, height) - top]
        box = annotation.get("bbox")
        if not is_box(box) or not _is_close(box, expected, tolerance=EDGE):
            replaced.append((box, expected))
            annotation["bbox"] = expected
    if replaced:
        fault = f"{len(replaced)} of {len(content['annotations'])} boxes differ from their masks"
        example = f"such as {shown(replaced[0][0])} (x, y, width, height)"
        action = f"taken from the masks: {replaced[0][1]}"
        findings.repaired("boxes-from-masks", f"{fault}, {example}", action)


def _is_corners(box: list[float], around_mask: list[float]) -> bool:
    """Whether `box` fits its mask as (x1, y1, x2, y2), and does not as (x, y, width, height)."""
    x, y, width, height = around_mask
    return _is_close(box, [x, y, x + width, y + height]) and not _is_close(box, around_mask)


def _is_close(left: list[float], right: list[float], tolerance: float = _TOLERANCE) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(left, right))
