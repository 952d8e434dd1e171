"""Rejects ground truth and results on which pycocotools fails or computes with NaN.

hotcoco need not fail on them, so both engines check their input here.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from pycocotools.coco import COCO

from ..errors import RunError

_KEYS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}


def check_records(truth: COCO, results: list[dict], task: str) -> None:
    """Check what COCO's evaluation reads.

    Args:
        truth: the ground truth.
        results: COCO results.
        task: "bbox", "segm" or "keypoints".

    Raises:
        RunError: an annotation has no number as `area` or `iscrowd`; a result is of an image that
            is not in the ground truth, lacks the key of the task, or has the score NaN; or a box
            has NaN and the task is "bbox".
    """
    annotations = truth.dataset.get("annotations", [])
    for fault in _faults_of_annotations(annotations):
        raise RunError(f"{fault}. COCO's evaluation needs a number: correct the json file")
    for fault in _faults_of_results(results, truth.imgs, _KEYS[task]):
        raise RunError(f"A prediction {fault}. Evaluate predictions of a model for this dataset")
    if task == "bbox":
        for what, records in (("An annotation", annotations), ("A prediction", results)):
            boxes = np.array([record["bbox"] for record in records], dtype=float)
            if np.isnan(boxes).any():
                image = records[int(np.isnan(boxes).any(axis=1).argmax())]["image_id"]
                raise RunError(f"{what} of image {image} has a box with NaN. Remove or correct it")


def _faults_of_annotations(annotations: Iterable[dict]) -> Iterator[str]:
    for annotation in annotations:
        for key in ("area", "iscrowd"):
            value = annotation.get(key)
            if not isinstance(value, (int, float)) or value != value:
                yield f"Annotation {annotation.get('id')} has the {key} {value}"


def _faults_of_results(results: Iterable[dict], images: dict, key: str) -> Iterator[str]:
    for result in results:
        image = result["image_id"]
        if image not in images:
            yield f"is of image {image}, which the dataset does not have"
        elif key not in result:
            yield f"of image {image} has no {key}"
        elif result["score"] != result["score"]:
            yield f"of image {image} has the score NaN"
