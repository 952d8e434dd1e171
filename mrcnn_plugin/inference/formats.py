"""Converts predicted instances to COCO, labelme and polygons, and to an image of their numbers."""

import base64
from collections.abc import Sequence

import cv2
import numpy as np
import pycocotools.mask as mask_utils
from detectron2.structures import Instances

from ..data.crops import crop_mask
from .polygons import outlines, trace

_LABELME_VERSION = "5.5.0"  # of the format


def to_coco(instances: Instances, image_id: int | str, *, first_id: int = 1) -> list[dict]:
    """The annotations of an image in a COCO json, which are also results for COCO's evaluation.

    Args:
        instances: of a `Predictor`.
        image_id: of the image in the json.
        first_id: id of the first annotation; the others are numbered from there.

    Returns:
        dicts with `id`, `image_id`, `category_id` (the class index plus 1), `bbox` (x, y, width,
        height), `area` in pixels, `iscrowd` 0, `score` and `segmentation` (RLE with `counts` as
        str). Boxes are rounded to 0.001 pixels and scores to 0.000001. Models without masks give no
        `segmentation`, and `area` is that of the box.
    """
    found = []
    for index, (x1, y1, x2, y2) in enumerate(instances.pred_boxes.tensor.double().tolist()):
        annotation = {
            "id": first_id + index,
            "image_id": image_id,
            "category_id": int(instances.pred_classes[index]) + 1,
            "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
            "area": round((x2 - x1) * (y2 - y1), 3),
            "iscrowd": 0,
            "score": round(float(instances.scores[index]), 6),
        }
        if instances.has("pred_masks"):
            rle = instances.pred_masks[index]
            annotation["area"] = int(mask_utils.area(rle))
            counts = rle["counts"] if isinstance(rle["counts"], str) else rle["counts"].decode()
            annotation["segmentation"] = {"size": list(rle["size"]), "counts": counts}
        found.append(annotation)
    return found


def to_polygons(instances: Instances, *, tolerance: float = 0.0) -> list[list[list[float]]]:
    """The polygons `[x1, y1, x2, y2, ...]` of each instance, whose union is its mask.

    They follow the edges of pixels. A mask with a hole is cut into parts; an empty one has none.

    Args:
        instances: of a `Predictor` of a model with masks.
        tolerance: in pixels. Above 0, corners are removed as long as the outline moves by no more,
            so that the mask changes, and polygons are easier to edit.
    """
    result = []
    for rle in instances.pred_masks:
        left, top, crop = crop_mask(rle)
        result.append([_simplified(r, left, top, tolerance) for r in outlines(crop)])
    return result


def _simplified(ring: np.ndarray, left: int, top: int, tolerance: float) -> list[float]:
    if tolerance > 0:
        fewer = cv2.approxPolyDP(ring.astype(np.int32), tolerance, True)[:, 0]
        ring = fewer if len(fewer) >= 3 else ring
    return (ring + np.array([left, top])).astype(float).ravel().tolist()


def to_labelme(
    instances: Instances, file_name: str, class_names: Sequence[str], *, tolerance: float = 0.0
) -> dict:
    """The content of a json that labelme opens.

    An instance is a polygon, or several with the same `group_id`. One with a hole is a shape of the
    type "mask". Models without masks give rectangles. `mrcnn dataset convert labelme` reads the
    same masks back if `tolerance` is 0.

    Args:
        instances: of a `Predictor`.
        file_name: of the image, relative to the json file.
        class_names: of the model.
        tolerance: see `to_polygons`.
    """
    shapes = []
    for index in range(len(instances)):
        parts = _labelme_parts(instances, index, tolerance)
        about = {
            "label": class_names[int(instances.pred_classes[index])],
            "description": f"score {float(instances.scores[index]):.3f}",
            "group_id": index + 1 if len(parts) > 1 else None,
            "flags": {},
        }
        shapes += [{**about, **part} for part in parts]
    height, width = instances.image_size
    return {
        "version": _LABELME_VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": file_name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _labelme_parts(instances: Instances, index: int, tolerance: float) -> list[dict]:
    """`shape_type`, `points` and `mask` of the shapes of one instance."""
    if not instances.has("pred_masks"):
        corners = instances.pred_boxes.tensor[index].reshape(2, 2).tolist()
        return [{"shape_type": "rectangle", "points": corners, "mask": None}]
    left, top, crop = crop_mask(instances.pred_masks[index])
    rings, holes = trace(crop)
    if not holes:
        polygons = [_simplified(ring, left, top, tolerance) for ring in rings]
        points = [np.reshape(polygon, (-1, 2)).tolist() for polygon in polygons]
        return [{"shape_type": "polygon", "points": p, "mask": None} for p in points]
    _, png = cv2.imencode(".png", crop.astype(np.uint8) * 255)
    height, width = crop.shape
    corners = [[left, top], [left + width - 1, top + height - 1]]  # inclusive
    return [{"shape_type": "mask", "points": corners, "mask": base64.b64encode(png).decode()}]


def to_numbers(instances: Instances) -> np.ndarray:
    """An image of the instances' numbers, counted from 1; 0 is background.

    Where masks overlap, the instance with the better score is in front.

    Returns:
        (height, width) uint8, or uint16 if there are more than 255 instances.
    """
    image = np.zeros(instances.image_size, np.uint8 if len(instances) < 256 else np.uint16)
    for index in reversed(range(len(instances))):
        left, top, crop = crop_mask(instances.pred_masks[index])
        height, width = crop.shape
        image[top : top + height, left : left + width][crop] = index + 1
    return image
