"""Finds datasets whose boxes are all written in another form than COCO's."""

import math
from typing import Any

from .findings import Findings
from .masks import image_sizes, mask_box

_NUMBERS = frozenset((int, float))
_SAMPLE = 1000  # boxes per dataset; a wrong form is that of all boxes
_TOLERANCE = 2.0  # pixels between a corner of a box and of its mask
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
    """Report corners `[x1, y1, x2, y2]` and normalised coordinates from 0 to 1.

    COCO's form is `[x, y, width, height]` in pixels. Both others pass for such boxes, only in the
    wrong place, and train a model that detects nothing.

    Args:
        content: a COCO json.
        findings: receives one error per file, if more than half of a sample has another form.
        masks: whether masks have been checked; only they can tell that boxes are corners.
    """
    annotations = content["annotations"]
    sample = [
        annotations[index]
        for index in range(0, len(annotations), max(1, len(annotations) // _SAMPLE))
        if index not in findings.bad_annotations and is_box(annotations[index].get("bbox"))
    ]
    sizes = image_sizes(content)
    small = [a for a in sample if max(a["bbox"]) <= 1 and min(sizes[a["image_id"]]) >= _MIN_SIDE]
    if 2 * len(small) > len(sample):
        fault = f"{len(small)} of {len(sample)} sampled boxes have only values up to 1, such as"
        findings.error(
            "normalised-boxes",
            f"{fault} {small[0]['bbox']}; expected pixels",
            action="multiply coordinates by the width and height of the image",
        )
    elif masks:
        corners = [a for a in sample if _is_corners(a["bbox"], mask_box(a["segmentation"]))]
        if 2 * len(corners) > len(sample):
            box, expected = corners[0]["bbox"], mask_box(corners[0]["segmentation"])
            fault = f"{len(corners)} of {len(sample)} sampled boxes are [x1, y1, x2, y2]"
            findings.error(
                "boxes-are-corners",
                f"{fault}, such as {box} around a mask in {expected} (x, y, width, height)",
                action="subtract x1, y1 from x2, y2",
            )


def _is_corners(box: list[float], around_mask: list[float]) -> bool:
    """Whether `box` fits its mask as (x1, y1, x2, y2), and does not as (x, y, width, height)."""
    x, y, width, height = around_mask
    return _is_close(box, [x, y, x + width, y + height]) and not _is_close(box, around_mask)


def _is_close(left: list[float], right: list[float]) -> bool:
    return all(abs(a - b) <= _TOLERANCE for a, b in zip(left, right))
