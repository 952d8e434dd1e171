"""Precision-recall, confusion, calibration and AP per image, worked out by hand.

Two images, classes A and B. Image 1 holds an A and a B, image 2 holds an A:

    score  image  prediction           ground truth
    0.9    1      A on the A           correct
    0.8    1      A on the B           the B is predicted as an A
    0.7    2      A where nothing is   background; the A of image 2 is missed
"""

import json

import numpy as np
import pytest
from builders import silent_coco

from mrcnn_plugin.evaluation.analysis import analyse, load_analysis, save_analysis
from mrcnn_plugin.evaluation.coco_eval import run_coco_eval
from mrcnn_plugin.evaluation.confusion import confusion_matrix, match
from mrcnn_plugin.evaluation.diagnosis import (
    calibration,
    error_kinds,
    image_aps,
    label_errors,
    of_each_class,
)
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


def dataset(truths=TRUTHS, images=2):
    annotations = [{"id": i, **t} for i, t in enumerate(truths, start=1)]
    return silent_coco(
        {
            "info": {},
            "licenses": [],
            "images": [{"id": i, "height": 100, "width": 100} for i in range(1, images + 1)],
            "annotations": annotations,
            "categories": [{"id": A, "name": "a"}, {"id": B, "name": "b"}],
        }
    )


def evaluated(truths=TRUTHS, detections=DETECTIONS, images=2):
    results = [dict(d) for d in detections]
    return run_coco_eval(dataset(truths, images), results, "bbox", max_dets=[1, 10, 100])


def confusion(truths=TRUTHS, **options):
    details = evaluated(truths).details
    return confusion_matrix(dataset(truths), details, "bbox", **options).tolist()


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
    assert confusion() == [
        # A  B  background (predicted)
        [1, 0, 1],  # A
        [1, 0, 0],  # B
        [1, 0, 0],  # background
    ]


def test_confusion_skips_low_scores_and_detections_in_crowds():
    assert confusion(min_score=0.85) == [
        [1, 0, 1],
        [0, 0, 1],
        [0, 0, 0],
    ]
    for category in (A, B):  # the detection in the crowd region is an A
        crowd = truth(2, category, [50, 50, 50, 50], crowd=1)
        assert confusion([*TRUTHS, crowd]) == [
            [1, 0, 1],
            [1, 0, 0],
            [0, 0, 0],
        ]


def test_pairs_go_to_the_best_detection_and_the_largest_overlap():
    ious = np.array([[0.6, 0.7], [0.9, 0.8], [0.9, 0.9], [0.1, 0.4]])
    assert match(ious, 0.5).tolist() == [1, 0, -1, -1]
    assert match(np.zeros((2, 0)), 0.5).tolist() == [-1, -1]


def test_scores_and_whether_they_are_correct():
    (scores, correct, num_a), (none, _, num_b) = of_each_class(evaluated().details)
    assert dict(zip(scores.tolist(), correct.tolist())) == {0.9: True, 0.8: False, 0.7: False}
    assert (len(none), num_a, num_b) == (0, 2, 1)
    crowd = truth(2, A, [50, 50, 50, 50], crowd=1)  # the detection of 0.7 lies in it
    (scores, _, num_a), _ = of_each_class(evaluated([*TRUTHS, crowd]).details)
    assert (sorted(scores), num_a) == ([0.8, 0.9], 2)


def test_calibration():
    """Bins [0.6, 0.8) and [0.8, 1]: means 0.7 and 0.85; 0 of 1 and 1 of 2 are correct."""
    bins = calibration(evaluated().details, num_bins=5)
    assert bins["count"] == [0, 0, 0, 1, 2]
    assert bins["score"] == [None, None, None, pytest.approx(0.7), pytest.approx(0.85)]
    assert bins["precision"] == [None, None, None, 0.0, 0.5]
    assert bins["error"] == pytest.approx(1 / 3 * 0.7 + 2 / 3 * 0.35)


def test_ap_per_image():
    """Image 1: A is found first (100), B is not (0). Image 2: A is missed. Image 3 is empty."""
    aps = image_aps(evaluated(images=3).details)
    assert dict(aps) == {1: pytest.approx(50), 2: 0.0, 3: None}


def test_kinds_of_errors():
    """One detection of a wrong class, one where nothing is; the A of image 2 is missed.

    With the wrong class repaired, B has AP 100 in place of 0. Without the false detection, which
    comes last, nothing changes. With the missed A found, class A has its precision up to recall 1.
    """
    errors = error_kinds(evaluated().details)
    count = dict(zip(errors["kinds"], errors["count"]))
    assert count == {"Cls": 1, "Loc": 0, "Both": 0, "Dupe": 0, "Bkg": 1, "Miss": 1}
    ap = dict(zip(errors["kinds"], errors["ap"]))
    assert ap["Cls"] == pytest.approx(50)
    assert ap["Bkg"] == ap["Loc"] == ap["Both"] == ap["Dupe"] == 0
    assert ap["Miss"] > 20


def test_label_errors_are_what_sure_detections_contradict():
    first, second = label_errors(evaluated().details, ["a", "b"])
    assert (first["image_id"], first["kind"], first["score"]) == (1, "class", 0.8)
    assert (first["predicted"], first["labelled"], first["bbox"]) == ("a", "b", THERE)
    assert (second["image_id"], second["kind"], second["labelled"]) == (2, "missing", None)
    unsure = [{**d, "score": d["score"] / 2} for d in DETECTIONS]
    assert label_errors(evaluated(detections=unsure).details, ["a", "b"]) == []


def test_saved_and_loaded_analysis_are_equal(tmp_path):
    analysis = analyse({"bbox": evaluated()}, dataset(), ["a", "b"], "mine")
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
