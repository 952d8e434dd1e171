"""Confusion matrix of the classes, with background as one more class.

hotcoco has one too, but it counts a detection in a crowd region of another class as a false one.
This one skips it, because nobody knows what the objects in that region are.
"""

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from .hotcoco_eval import HotcocoEvaluation

_MIN_IOU = 0.5  # between a detection and its ground truth, whatever their classes


def match(ious: np.ndarray, min_iou: float) -> np.ndarray:
    """Match detections to ground truth whatever the classes, in order of score.

    Args:
        ious: (D, G) IoU of D detections, in descending order of score, with G instances.
        min_iou: of a match.

    Returns:
        (D,) int, an index below G that occurs once at most, or -1 for background.
    """
    matched = np.full(len(ious), -1)
    free = np.ones(ious.shape[1], dtype=bool)
    for detection, overlaps in enumerate(ious):
        candidates = np.where(free, overlaps, -1.0)
        if candidates.size and candidates.max() >= min_iou:
            matched[detection] = candidates.argmax()
            free[matched[detection]] = False
    return matched


def add_image(
    matrix: np.ndarray, matched: np.ndarray, gt_classes: np.ndarray, pred_classes: np.ndarray
) -> None:
    """Add an image to a (K + 1, K + 1) matrix with true classes as rows.

    Args:
        matrix: counts, changed in place. The last class is background.
        matched: (D,) from `match`.
        gt_classes: (G,) in [0, K).
        pred_classes: (D,) in [0, K).
    """
    background = len(matrix) - 1
    for truth, predicted in zip(matched, pred_classes):
        matrix[background if truth < 0 else gt_classes[truth], predicted] += 1
    missed = np.setdiff1d(np.arange(len(gt_classes)), matched)
    for truth in missed:
        matrix[gt_classes[truth], background] += 1


def confusion_matrix(
    truth: COCO, evaluation: HotcocoEvaluation, task: str, *, min_score: float = 0.5
) -> np.ndarray:
    """Count true classes (rows) against predicted classes (columns) over a dataset.

    An unmatched detection counts in the background row, unless half of it lies in a crowd region.
    An unmatched instance counts in the background column.

    Args:
        truth: the ground truth.
        evaluation: of detections against it. Its matches are not used.
        task: "bbox" or "segm", which decides whether IoU is of boxes or of masks.
        min_score: detections with a lower score are skipped.

    Returns:
        (K + 1, K + 1) int, classes in the order of category ids, background last.
    """
    index = {category: i for i, category in enumerate(evaluation.category_ids)}
    by_image: dict = {image: [] for image in evaluation.image_ids}
    for result in evaluation.results:
        if result["score"] >= min_score:
            by_image[result["image_id"]].append(result)
    matrix = np.zeros((len(index) + 1, len(index) + 1), dtype=int)
    for image, detections in by_image.items():
        annotations = [a for a in truth.imgToAnns[image] if a["category_id"] in index]
        crowds = [a for a in annotations if a.get("iscrowd", 0)]
        truths = [a for a in annotations if not a.get("iscrowd", 0)]
        detections.sort(key=lambda a: -a["score"])
        ious = overlaps(truth, detections, truths, task, crowd=False)
        inside = overlaps(truth, detections, crowds, task, crowd=True)
        matched = match(ious, _MIN_IOU)
        counted = (matched >= 0) | (inside.max(1, initial=0) < _MIN_IOU)
        classes = np.array([index[a["category_id"]] for a in detections], dtype=int)
        truth_classes = np.array([index[a["category_id"]] for a in truths], dtype=int)
        add_image(matrix, matched[counted], truth_classes, classes[counted])
    return matrix


def overlaps(truth: COCO, detections: list, truths: list, task: str, *, crowd: bool) -> np.ndarray:
    """(D, G) IoU of COCO annotations; for crowds, the share of the detection inside them."""
    if not detections or not truths:
        return np.zeros((len(detections), len(truths)))
    if task == "segm":
        left = [d["segmentation"] for d in detections]
        right = [truth.annToRLE(a) for a in truths]
    else:
        left, right = [a["bbox"] for a in detections], [a["bbox"] for a in truths]
    return np.asarray(mask_utils.iou(left, right, [int(crowd)] * len(truths)))
