"""Confusion matrix of the classes, with background as one more class."""

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.cocoeval import COCOeval

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


def confusion_matrix(coco_eval: COCOeval, *, min_score: float = 0.5) -> np.ndarray:
    """Count true classes (rows) against predicted classes (columns) over a dataset.

    An unmatched detection counts in the background row, unless half of it lies in a crowd region.
    An unmatched instance counts in the background column.

    Args:
        coco_eval: for "bbox" or "segm", which decides whether IoU is of boxes or of masks.
        min_score: detections with a lower score are skipped.

    Returns:
        (K + 1, K + 1) int, classes in the order of category ids, background last.
    """
    gt, dt, params = coco_eval.cocoGt, coco_eval.cocoDt, coco_eval.params
    index = {category: i for i, category in enumerate(params.catIds)}
    matrix = np.zeros((len(index) + 1, len(index) + 1), dtype=int)
    for image in params.imgIds:
        truths = gt.loadAnns(gt.getAnnIds(imgIds=[image]))
        crowds = [a for a in truths if a.get("iscrowd", 0)]
        truths = [a for a in truths if not a.get("iscrowd", 0)]
        detections = [
            a for a in dt.loadAnns(dt.getAnnIds(imgIds=[image])) if a["score"] >= min_score
        ]
        detections.sort(key=lambda a: -a["score"])
        matched = match(overlaps(coco_eval, detections, truths, crowd=False), _MIN_IOU)
        in_crowd = overlaps(coco_eval, detections, crowds, crowd=True).max(1, initial=0) >= _MIN_IOU
        counted = (matched >= 0) | ~in_crowd
        classes = np.array([index[a["category_id"]] for a in detections], dtype=int)
        truth_classes = np.array([index[a["category_id"]] for a in truths], dtype=int)
        add_image(matrix, matched[counted], truth_classes, classes[counted])
    return matrix


def overlaps(coco_eval: COCOeval, detections: list, truths: list, *, crowd: bool) -> np.ndarray:
    """(D, G) IoU of COCO annotations; for crowds, the share of the detection inside them."""
    if not detections or not truths:
        return np.zeros((len(detections), len(truths)))
    if coco_eval.params.iouType == "segm":
        left = [coco_eval.cocoDt.annToRLE(a) for a in detections]
        right = [coco_eval.cocoGt.annToRLE(a) for a in truths]
    else:
        left, right = [a["bbox"] for a in detections], [a["bbox"] for a in truths]
    return np.asarray(mask_utils.iou(left, right, [int(crowd)] * len(truths)))
