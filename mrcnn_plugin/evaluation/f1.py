"""F1 over the score threshold of each class, and the threshold at which it is best."""

from collections.abc import Iterable

import numpy as np

_NUM_POINTS = 101  # of the curve that the report draws


def f1_curves(of_each_class: Iterable[tuple[np.ndarray, np.ndarray, int]]) -> dict:
    """F1 at IoU 0.5 if only detections from a score on are kept.

    F1 is `2 TP / (detections + instances)`.

    Args:
        of_each_class: scores (D,), whether correct (D,) bool, and number of instances per class.

    Returns:
        `thresholds`, per class the score with the best F1 (None for a class without instances or
        without a correct detection); `best`, that F1 (likewise); `score`, 101 values in [0, 1]; and
        `f1`, the mean F1 at these scores over the classes that have instances.
    """
    grid = np.linspace(0, 1, _NUM_POINTS)
    thresholds, best, curves = [], [], []
    for scores, correct, num_instances in of_each_class:
        threshold, f1 = best_threshold(scores, correct, num_instances)
        thresholds.append(threshold)
        best.append(f1)
        if num_instances:
            curves.append([f1_at(s, scores, correct, num_instances) for s in grid])
    mean = np.mean(curves, axis=0).round(4).tolist() if curves else []
    return {"thresholds": thresholds, "best": best, "score": grid.tolist(), "f1": mean}


def best_threshold(
    scores: np.ndarray, correct: np.ndarray, num_instances: int
) -> tuple[float | None, float | None]:
    """(score, F1) of the best threshold; (None, None) if no detection is correct.

    The score is half-way to the next lower one, so that rounding in another program does not drop
    the last detection that is kept.

    Args:
        scores: (D,) of the detections of one class.
        correct: (D,) bool.
        num_instances: of the class.
    """
    if not correct.any():
        return None, None
    order = np.argsort(-scores, kind="stable")
    scores, correct = scores[order], correct[order]
    f1 = 2 * np.cumsum(correct) / (np.arange(1, len(scores) + 1) + num_instances)
    f1[:-1][scores[:-1] == scores[1:]] = 0  # equal scores are kept or dropped together
    last = int(f1.argmax())
    below = scores[last + 1] if last + 1 < len(scores) else 0.0
    return float((scores[last] + below) / 2), float(f1[last])


def f1_at(score: float, scores: np.ndarray, correct: np.ndarray, num_instances: int) -> float:
    """F1 of the detections with at least this score; the arguments are those of above."""
    kept = scores >= score
    return float(2 * correct[kept].sum() / (kept.sum() + num_instances))
