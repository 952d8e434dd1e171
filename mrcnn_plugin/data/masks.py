"""Checks, measures and converts the masks of COCO annotations, polygons or RLE."""

import math
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils

from .findings import Findings
from .polygons import MAX_OUTLINE, degenerate_polygons, polygon_faults
from .records import shown
from .rle import compressed_faults, form_fault, list_fault

EDGE = 1.0  # pixels that boxes and polygons may exceed the image by rounding, as many of COCO do


def check_masks(content: dict, findings: Findings) -> None:
    """Check that polygons and RLE are well-formed, of the image's size and not empty.

    Afterwards pycocotools can read the masks that are not reported, within bounded memory.
    """
    sizes = image_sizes(content)
    polygons, owners = [], []  # every polygon of the file, and the annotation it belongs to
    compressed = []  # annotations with compressed RLE
    for index, annotation in enumerate(content["annotations"]):
        if index in findings.bad_annotations:
            continue
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, dict):
            _check_rle(index, annotation, findings, sizes, compressed)
        elif isinstance(segmentation, list) and segmentation:
            parts = _nested(segmentation, annotation, findings)
            polygons.extend(parts)
            owners.extend([index] * len(parts))
        else:
            fault = "has no segmentation"
            hint = "annotate its outline, or check with --boxes-only and train with MASK_ON False"
            findings.bad_annotation(index, annotation, "no-mask", fault, hint)
    _check_compressed(content, findings, sizes, compressed)
    _check_polygons(content, findings, polygons, np.array(owners, dtype=int))


def _check_rle(index, annotation, findings, sizes, compressed: list[int]) -> None:
    """Check an RLE, or add its position to `compressed`, which are checked together."""
    rle, size = annotation["segmentation"], sizes[annotation["image_id"]]
    fault = form_fault(rle, size)
    if not fault and isinstance(rle["counts"], list):
        fault = list_fault(rle["counts"], math.prod(size))
    elif not fault:
        compressed.append(index)
    if fault:
        findings.bad_annotation(index, annotation, *fault)


def _check_compressed(content, findings, sizes, indices: list[int]) -> None:
    annotations = [content["annotations"][index] for index in indices]
    strings = [annotation["segmentation"]["counts"] for annotation in annotations]
    pixels = [math.prod(sizes[annotation["image_id"]]) for annotation in annotations]
    for index, annotation, fault in zip(indices, annotations, compressed_faults(strings, pixels)):
        if fault:
            findings.bad_annotation(index, annotation, *fault)


def _nested(segmentation: list, annotation: dict, findings: Findings) -> list:
    """Read `[x, y, ...]` as `[[x, y, ...]]`, one polygon."""
    if not isinstance(segmentation[0], (int, float)):
        return segmentation
    ids = annotation["image_id"], annotation["id"]
    fault = "segmentation is a list of numbers, not of polygons"
    findings.repaired("flat-polygon", fault, "read as one polygon", *ids)
    annotation["segmentation"] = [segmentation]
    return [segmentation]


def _check_polygons(content, findings, polygons: list, owners: np.ndarray) -> None:
    sizes = image_sizes(content)
    annotations = content["annotations"]
    of_owners = [sizes[annotations[index]["image_id"]] for index in owners.tolist()]
    of_owners = np.array(of_owners, dtype=float).reshape(-1, 2)
    faults = polygon_faults(polygons, of_owners)
    for k in np.flatnonzero(faults.far).tolist():
        index = int(owners[k])
        fault = _far_fault(polygons[k], of_owners[k])
        hint = "polygons are [x1, y1, x2, y2, ...] in pixels of the image"
        findings.bad_annotation(index, annotations[index], "far-polygon", fault, hint)
    for index in np.unique(owners[faults.degenerate & ~faults.far]).tolist():
        mine = range(*np.searchsorted(owners, [index, index + 1]))  # owners are sorted
        _drop_degenerate(index, annotations[index], findings, polygons, faults.degenerate, mine)
    for index in np.unique(owners[~faults.far & (faults.overhang > EDGE)]).tolist():
        mine = slice(*np.searchsorted(owners, [index, index + 1]))
        if index not in findings.bad_annotations:
            pixels = round(float(faults.overhang[mine].max()), 2)
            fault = f"a polygon reaches {pixels} pixels outside the image; that part is ignored"
            ids = {"image_id": annotations[index]["image_id"]}
            findings.warning(
                "polygon-over-edge", fault, **ids, annotation_id=annotations[index]["id"]
            )


def _far_fault(polygon: list, size: np.ndarray) -> str:
    height, width = size.astype(int).tolist()
    for x, y in zip(polygon[::2], polygon[1::2]):
        if not (-width <= x <= 2 * width and -height <= y <= 2 * height):
            vertex = f"({shown(x)}, {shown(y)})"
            return f"a polygon has the vertex {vertex}, far outside the {width} x {height} image"
    return f"the outline of a polygon is longer than {MAX_OUTLINE:.0f} pixels"


def _drop_degenerate(index, annotation, findings, polygons, degenerate, mine: range) -> None:
    """Remove the degenerate polygons, of those at the positions `mine`, from an annotation."""
    good = [polygons[k] for k in mine if not degenerate[k]]
    fault = (
        f"{len(mine) - len(good)} of {len(mine)} polygons have fewer than 3 points, a value "
        "that is not a number, or all points on one line"
    )
    if not good:
        hint = ""
        if _has_pairs(annotation["segmentation"]):
            hint = (
                "write each polygon as [x1, y1, x2, y2, ...] and not as [[x1, y1], [x2, y2], ...]"
            )
        findings.bad_annotation(index, annotation, "degenerate-polygon", fault, hint)
    elif index not in findings.bad_annotations:
        ids = annotation["image_id"], annotation["id"]
        action = "these polygons enclose nothing and are removed"
        findings.repaired("degenerate-part", fault, action, *ids)
        annotation["segmentation"] = good


def _has_pairs(segmentation: list) -> bool:
    """Whether points are pairs, in one polygon or in a list of polygons."""
    polygons = [segmentation, *segmentation]
    return any(
        isinstance(p, list) and len(p) > 2 and all(isinstance(q, list) and len(q) == 2 for q in p)
        for p in polygons
    )


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


def are_drawable(polygons: list[list[float]], height: int, width: int) -> bool:
    """Whether pycocotools can draw polygons into an image of this size, in bounded memory.

    Polygons that enclose nothing can be drawn if they have three points.
    """
    faults = polygon_faults(polygons, np.tile([height, width], (len(polygons), 1)))
    return not faults.far.any() and all(len(polygon) >= 6 for polygon in polygons)


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
