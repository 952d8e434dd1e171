"""Average precisions and precision-recall curves from the arrays that COCOeval accumulates.

`Evaluation.eval["precision"]` is (T, R, K, A, M) over IoU thresholds 0.5, 0.55, ..., 0.95; recalls
0, 0.01, ..., 1; classes; areas (all, small, medium, large); and limits on the number of detections.
It holds the highest precision at that recall or a higher one, and -1 for a class without ground
truth.
"""

import numpy as np

from .coco_eval import Evaluation

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the columns of every table
AREAS = {"AP": 0, "APs": 1, "APm": 2, "APl": 3}


def average_precision(precision: np.ndarray) -> float | None:
    """Mean of the defined entries, in percent. None if no entry is defined."""
    defined = precision[precision > -1]
    return float(100 * defined.mean()) if defined.size else None


def ap_row(precision: np.ndarray, ious: np.ndarray) -> dict[str, float | None]:
    """AP, AP50, AP75, APs, APm, APl of a (T, R, K, A, M) precision, in percent.

    Args:
        precision: of one or more classes.
        ious: (T,) IoU thresholds.
    """
    at_most = precision[..., -1]  # the largest limit on detections
    row = {name: average_precision(at_most[..., area]) for name, area in AREAS.items()}
    for name, iou in (("AP50", 0.5), ("AP75", 0.75)):
        row[name] = average_precision(at_most[np.isclose(ious, iou), ..., 0])
    return row


def ap_table(evaluation: Evaluation, class_names: list[str]) -> dict:
    """`{"all": row, "classes": {name: row}}` with rows as `ap_row` returns them.

    Args:
        evaluation: for "bbox" or "segm".
        class_names: K names in the order of the category ids.
    """
    precision, ious = evaluation.eval["precision"], evaluation.iou_thresholds
    classes = {
        name: ap_row(precision[:, :, index : index + 1], ious)
        for index, name in enumerate(class_names)
    }
    return {"all": ap_row(precision, ious), "classes": classes}


def pr_curves(evaluation: Evaluation) -> dict[str, list]:
    """Precision over recall per IoU threshold, averaged over the classes with ground truth.

    Returns:
        `iou` (T,), `recall` (R,) in [0, 1] and `precision`, T lists of R values in [0, 1]. The
        lists are empty if there is no ground truth.
    """
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # all areas, most detections
    with_truth = (precision > -1).any(axis=(0, 1))
    if not with_truth.any():
        return {"iou": [], "recall": [], "precision": []}
    return {
        "iou": evaluation.iou_thresholds.round(2).tolist(),
        "recall": evaluation.recall_thresholds.round(2).tolist(),
        "precision": precision[:, :, with_truth].mean(axis=2).round(4).tolist(),
    }
