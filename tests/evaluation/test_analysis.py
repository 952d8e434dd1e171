"""Precision-recall, confusion, calibration and AP per image, worked out by hand.

Two images, classes A and B. Image 1 holds an A and a B, image 2 holds an A:

    score  image  prediction           ground truth
    0.9    1      A on the A           correct
    0.8    1      A on the B           the B is predicted as an A
    0.7    2      A where nothing is   background; the A of image 2 is missed
"""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_plugin.evaluation.analysis import analyse, load_analysis, save_analysis
from mrcnn_plugin.evaluation.calibration import calibration, scored_detections
from mrcnn_plugin.evaluation.confusion import confusion_matrix, match
from mrcnn_plugin.evaluation.image_ap import image_aps
from mrcnn_plugin.evaluation.precision_recall import ap_table, pr_curves
from mrcnn_plugin.evaluation.report.images import pick_images

A, B = 3, 7  # category ids
HERE, THERE, NOWHERE = [0, 0, 10, 10], [20, 20, 10, 10], [60, 60, 10, 10]


def truth(image, category, box, crowd=0):
    x, y, w, h = box
    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
    annotation = {"image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
    return {**annotation, "area": w * h, "segmentation": [corners]}


def detection(image, category, box, score):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


TRUTHS = [truth(1, A, HERE), truth(1, B, THERE), truth(2, A, HERE)]
DETECTIONS = [
    detection(1, A, HERE, 0.9),
    detection(1, A, THERE, 0.8),
    detection(2, A, NOWHERE, 0.7),
]


def evaluated(truths=TRUTHS, detections=DETECTIONS, images=2):
    coco = COCO()
    coco.dataset = {
        "info": {},
        "licenses": [],
        "images": [{"id": i, "height": 100, "width": 100} for i in range(1, images + 1)],
        "annotations": [{"id": i, **t} for i, t in enumerate(truths, start=1)],
        "categories": [{"id": A, "name": "a"}, {"id": B, "name": "b"}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        coco_eval = COCOeval(coco, coco.loadRes(detections), "bbox")
        coco_eval.evaluate()
        coco_eval.accumulate()
    return coco_eval


def test_precision_over_recall():
    """A: precision 1 up to recall 1/2 (51 of 101 points), then 0. B: found by nothing."""
    curves = pr_curves(evaluated())
    assert curves["iou"] == pytest.approx([0.5 + 0.05 * i for i in range(10)])
    assert curves["recall"] == pytest.approx([i / 100 for i in range(101)])
    for precision in curves["precision"]:  # boxes are exact, so all thresholds agree
        assert precision == [0.5] * 51 + [0.0] * 50


def test_average_precision_of_classes_and_sizes():
    table = ap_table(evaluated(), ["a", "b"])
    of_a = 100 * 51 / 101
    assert table["classes"]["a"]["AP50"] == pytest.approx(of_a)
    assert table["classes"]["b"]["AP"] == 0
    assert table["all"]["AP"] == table["all"]["APs"] == pytest.approx(of_a / 2)
    assert table["all"]["APl"] is None  # nothing here is large


def test_confusion_matrix():
    assert confusion_matrix(evaluated()).tolist() == [
        # A  B  background (predicted)
        [1, 0, 1],  # A
        [1, 0, 0],  # B
        [1, 0, 0],  # background
    ]


def test_confusion_skips_low_scores_and_detections_in_crowds():
    assert confusion_matrix(evaluated(), min_score=0.85).tolist() == [
        [1, 0, 1],
        [0, 0, 1],
        [0, 0, 0],
    ]
    crowd = truth(2, A, [50, 50, 50, 50], crowd=1)
    assert confusion_matrix(evaluated([*TRUTHS, crowd])).tolist() == [
        [1, 0, 1],
        [1, 0, 0],
        [0, 0, 0],
    ]


def test_pairs_go_to_the_best_detection_and_the_largest_overlap():
    ious = np.array([[0.6, 0.7], [0.9, 0.8], [0.9, 0.9], [0.1, 0.4]])
    assert match(ious, 0.5).tolist() == [1, 0, -1, -1]
    assert match(np.zeros((2, 0)), 0.5).tolist() == [-1, -1]


def test_scores_and_whether_they_are_correct():
    scores, correct = scored_detections(evaluated())
    assert dict(zip(scores.tolist(), correct.tolist())) == {0.9: True, 0.8: False, 0.7: False}


def test_calibration():
    """Bins (0.6, 0.8] and (0.8, 1]: means 0.75 and 0.95; 1 of 2 and 1 of 1 are correct."""
    bins = calibration(np.array([0.95, 0.7, 0.8]), np.array([True, True, False]), num_bins=5)
    assert bins["count"] == [0, 0, 0, 2, 1]
    assert bins["score"] == [None, None, None, pytest.approx(0.75), pytest.approx(0.95)]
    assert bins["precision"] == [None, None, None, 0.5, 1.0]
    assert bins["error"] == pytest.approx(2 / 3 * 0.25 + 1 / 3 * 0.05)
    assert calibration(np.zeros(0), np.zeros(0, bool))["error"] == 0


def test_ap_per_image():
    """Image 1: A is found first (100), B is not (0). Image 2: A is missed. Image 3 is empty."""
    assert image_aps(evaluated(images=3)) == {1: pytest.approx(50), 2: 0.0, 3: None}


def test_saved_and_loaded_analysis_are_equal(tmp_path):
    analysis = analyse({"bbox": evaluated()}, ["a", "b"], "mine")
    save_analysis(analysis, tmp_path)
    assert load_analysis(tmp_path)["images"] == {1: pytest.approx(50), 2: 0.0}
    assert json.dumps(load_analysis(tmp_path)["pr"]) == json.dumps(analysis["pr"])
    assert load_analysis(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("aps", "best", "median", "worst"),
    [
        ({i: float(i) for i in range(1, 10)}, [9, 8], [6, 5], [1, 2]),
        ({1: 10.0, 2: 30.0, 3: 20.0, 4: None}, [2], [3], [1]),
        ({1: 10.0, 2: 10.0}, [1], [], [2]),
        ({}, [], [], []),
    ],
)
def test_best_median_and_worst(aps, best, median, worst):
    assert pick_images(aps, count=2) == {"best": best, "median": median, "worst": worst}
