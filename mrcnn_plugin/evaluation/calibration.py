"""Whether a score is the probability of being right."""

import numpy as np
from pycocotools.cocoeval import COCOeval


def calibration(scores: np.ndarray, correct: np.ndarray, num_bins: int = 10) -> dict:
    """Mean score and share of right detections in bins of equal width.

    Args:
        scores: (D,) in [0, 1].
        correct: (D,) bool.
        num_bins: bins of [0, 1]; each holds its upper edge, the first also 0.

    Returns:
        `count`, `score` (mean, None in an empty bin) and `precision` (likewise) of each bin, and
        `error`: the expected calibration error, the mean of |precision - score| weighted by count.
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
    """Scores (D,) of all detections that count, and whether each is right at IoU 0.5, (D,) bool.

    Right means matched by COCOeval: to an instance of its class that no better one has taken. What
    lies in crowd regions does not count.
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
