"""The score threshold of best F1, by hand and through pycocotools."""

import numpy as np
import pytest
from builders import evaluate, perfect_predictions

from mrcnn_plugin.evaluation.analysis import load_analysis
from mrcnn_plugin.evaluation.f1 import best_threshold, f1_at


def test_the_best_threshold_by_hand():
    """4 instances; F1 after 1..5 detections is 2/5, 4/6, 4/7, 6/8, 6/9: the best keeps four."""
    scores, correct = np.array([0.9, 0.8, 0.7, 0.6, 0.2]), np.array([1, 1, 0, 1, 0], bool)
    threshold, f1 = best_threshold(scores, correct, 4)
    assert (threshold, f1) == (pytest.approx(0.4), pytest.approx(6 / 8))
    shuffled = np.array([3, 0, 4, 2, 1])
    assert best_threshold(scores[shuffled], correct[shuffled], 4) == (threshold, f1)
    assert f1_at(0.65, scores, correct, 4) == pytest.approx(4 / 7)
    assert f1_at(1.0, scores, correct, 4) == 0


def test_equal_scores_are_not_separated():
    threshold, f1 = best_threshold(np.array([0.5, 0.5, 0.1]), np.array([True, False, False]), 1)
    assert (threshold, f1) == (pytest.approx(0.3), pytest.approx(2 / 3))


def test_nothing_correct():
    assert best_threshold(np.array([0.5]), np.array([False]), 3) == (None, None)
    assert best_threshold(np.zeros(0), np.zeros(0, bool), 0) == (None, None)


def test_perfect_detections_have_f1_of_one(shapes_cfg, tmp_path):
    shapes_cfg()  # registers drawn_val
    inputs, outputs = perfect_predictions("drawn_val")
    for output in outputs:
        output["instances"].scores[:] = 0.8
    evaluate("drawn_val", (inputs, outputs), tmp_path)
    f1 = load_analysis(tmp_path)["f1"]
    assert {b for b in f1["best"] if b is not None} == {1.0}
    assert all(t == pytest.approx(0.4) for t in f1["thresholds"] if t is not None)
    assert f1["f1"][0] == f1["f1"][80] == 1.0 and f1["f1"][81] == 0.0
