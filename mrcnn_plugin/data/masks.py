"""Checks, measures and converts the masks of COCO annotations, polygons or RLE."""

import math
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils

from .findings import Findings
from .polygons import degenerate_polygons


def check_masks(content: dict, findings: Findings) -> None:
    """Check that polygons and RLE are well-formed, of the image's size and not empty."""
    sizes = image_sizes(content)
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
            hint = "annotate its outline, or train on boxes only with MODEL.MASK_ON False"
            findings.bad_annotation(index, annotation, "no-mask", fault, hint)
    _check_polygons(content, findings, polygons, np.array(owners, dtype=int))


def _nested(segmentation: list, annotation: dict, findings: Findings) -> list:
    """Read `[x, y, ...]` as `[[x, y, ...]]`, one polygon."""
    if not isinstance(segmentation[0], (int, float)):
        return segmentation
    ids = annotation["image_id"], annotation["id"]
    fault = "segmentation is a list of numbers, not of polygons"
    findings.repaired("flat-polygon", fault, "read as one polygon", *ids)
    annotation["segmentation"] = [segmentation]
    return [segmentation]


def rle_fault(rle: dict, size: list[int]) -> tuple[str, str] | None:
    """(kind, fault) of a COCO RLE that should be of `size` (height, width), or None."""
    counts = rle.get("counts")
    if not isinstance(counts, (str, bytes, list)) or not isinstance(rle.get("size"), (list, tuple)):
        return "rle-form", f"an RLE needs 'size' and 'counts', this one has {sorted(rle)}"
    if list(rle["size"]) != size:
        return "rle-size", f"RLE has (height, width) {list(rle['size'])}, its image {size}"
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
            "that is not a number, or all points on one line"
        )
        if not good:
            findings.bad_annotation(index, annotation, "degenerate-polygon", fault)
            continue
        ids = annotation["image_id"], annotation["id"]
        findings.repaired(
            "degenerate-part", fault, "these polygons enclose nothing and are removed", *ids
        )
        annotation["segmentation"] = good


def image_sizes(content: dict) -> dict[Any, tuple[int, int]]:
    """(height, width) by image id."""
    return {image["id"]: (image.get("height"), image.get("width")) for image in content["images"]}


def mask_box(segmentation: list | dict) -> list[float]:
    """[x, y, width, height] around an RLE, or around polygons that are not all degenerate."""
    if isinstance(segmentation, dict):
        return mask_utils.toBbox(to_rle(segmentation, *segmentation["size"])).tolist()
    parts = [segmentation] if isinstance(segmentation[0], (int, float)) else segmentation
    good = [p for p, bad in zip(parts, degenerate_polygons(parts)) if not bad]
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in good])
    return [*points.min(0).tolist(), *np.ptp(points, axis=0).tolist()]


def annotation_area(annotation: dict, height: int, width: int) -> float:
    """Number of pixels of an annotation's mask in an image of this size."""
    return float(mask_utils.area(to_rle(annotation["segmentation"], height, width)))


def to_rle(segmentation: list | dict, height: int, width: int) -> dict:
    """Convert polygons, or RLE with or without compression, to one compressed RLE."""
    if isinstance(segmentation, list):
        return mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_utils.frPyObjects(segmentation, height, width)
    return segmentation
