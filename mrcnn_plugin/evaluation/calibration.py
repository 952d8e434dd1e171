"""Calibration: whether a score is the probability that a detection is correct."""

import numpy as np
from pycocotools.cocoeval import COCOeval


def calibration(scores: np.ndarray, correct: np.ndarray, num_bins: int = 10) -> dict:
    """Compute mean score and share of correct detections in bins of equal width.

    Args:
        scores: (D,) in [0, 1].
        correct: (D,) bool.
        num_bins: bins of [0, 1]. A bin includes its upper edge, and the first one also 0.

    Returns:
        `count`, `score` (mean, None in an empty bin) and `precision` (likewise) per bin, and
        `error`, the expected calibration error: the mean of |precision - score| weighted by count.
    """
    bins = np.clip(np.ceil(scores * num_bins).astype(int) - 1, 0, num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    sums = np.bincount(bins, weights=scores, minlength=num_bins)
    right = np.bincount(bins, weights=correct, minlength=num_bins)
    error = np.abs(right - sums).sum() / max(len(scores), 1)

    def means(values):
        return [float(v / n) if n else None for v, n in zip(values, count)]

    return {
        "count": count.tolist(),
        "score": means(sums),
        "precision": means(right),
        "error": float(error),
    }


def scored_detections(coco_eval: COCOeval) -> tuple[np.ndarray, np.ndarray]:
    """Scores (D,) of all detections, and whether each is correct at IoU 0.5, (D,) bool.

    A detection is correct if COCOeval matches it to an instance of its class. Detections in crowd
    regions are skipped.

    Args:
        coco_eval: evaluated by pycocotools.
    """
    params = coco_eval.params
    num_images, num_areas = len(params.imgIds), len(params.areaRng)
    scores, correct = [np.zeros(0)], [np.zeros(0, dtype=bool)]
    for position, image in enumerate(coco_eval.evalImgs):
        if image is None or (position // num_images) % num_areas != 0:  # 0: all areas
            continue
        counts = ~np.asarray(image["dtIgnore"][0], dtype=bool)
        scores.append(np.asarray(image["dtScores"])[counts])
        correct.append((np.asarray(image["dtMatches"][0]) > 0)[counts])
    return np.concatenate(scores), np.concatenate(correct)
