"""What an evaluation says about single detections, images and labels, as plain values."""

from collections.abc import Iterator

import numpy as np

from .hotcoco_eval import HotcocoEvaluation

MAX_LABEL_ERRORS = 50  # that an analysis keeps
_RESULT_KEYS = ("image_id", "category_id", "score", "bbox", "segmentation")
ERRORS = {  # TIDE's kinds: what they mean
    "Cls": "wrong class",
    "Loc": "wrong place",
    "Both": "wrong class and place",
    "Dupe": "found twice",
    "Bkg": "nothing there",
    "Miss": "missed",
}


def of_each_class(evaluation: HotcocoEvaluation) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """(scores, whether correct, number of instances) of each class, in the order of category ids.

    A detection is correct if COCOeval matches it to an instance of its class at IoU 0.5. Detections
    in crowd regions, and beyond the limit on detections per image, are skipped.
    """
    found = evaluation.coco_eval.image_diagnostics(iou_thr=0.5)
    scores = {category: [] for category in evaluation.category_ids}
    correct = {category: [] for category in evaluation.category_ids}
    # In the order of results: a sum over scores is then the same at every call.
    for number, status in sorted(found["dt_status"].items()):
        result = evaluation.results[number - 1]
        scores[result["category_id"]].append(result["score"])
        correct[result["category_id"]].append(status == "tp")
    annotations = evaluation.coco_eval.coco_gt.load_anns(sorted(found["gt_status"]))
    counts = np.bincount(
        [a["category_id"] - 1 for a in annotations], minlength=len(evaluation.category_ids)
    )
    for category, count in zip(evaluation.category_ids, counts.tolist()):
        of_class = np.array(scores[category], dtype=float), np.array(correct[category], dtype=bool)
        yield *of_class, count


def calibration(evaluation: HotcocoEvaluation, num_bins: int = 10) -> dict:
    """Whether a score is the probability that a detection is correct at IoU 0.5.

    Returns:
        `count`, `score` (mean, None in an empty bin) and `precision` (share of correct detections,
        likewise) per bin, and `error`, the expected calibration error: the mean of
        |precision - score| weighted by count. The bins of [0, 1] include their lower edge.
    """
    found = evaluation.coco_eval.calibration(n_bins=num_bins, iou_threshold=0.5)
    bins = found["bins"]
    return {
        "count": [b["count"] for b in bins],
        "score": [b["avg_confidence"] if b["count"] else None for b in bins],
        "precision": [b["avg_accuracy"] if b["count"] else None for b in bins],
        "error": found["ece"],
    }


def image_aps(evaluation: HotcocoEvaluation) -> list[tuple[int | str, float | None]]:
    """(image id, AP in percent) of each image as if it were the whole dataset.

    It is the mean over the classes that have ground truth in the image, so a false detection of
    another class costs nothing, as in COCO. None stands for an image without ground truth.
    """
    images = {str(n): [n] for n in range(1, len(evaluation.image_ids) + 1)}
    found = evaluation.coco_eval.slice_by(images)
    aps = [found[name]["AP"] for name in images]
    return [(i, None if ap < 0 else 100 * ap) for i, ap in zip(evaluation.image_ids, aps)]


def error_kinds(evaluation: HotcocoEvaluation) -> dict:
    """TIDE's decomposition of the errors at IoU 0.5 (Bolya et al., ECCV 2020).

    Returns:
        `kinds` (the keys of `ERRORS`); `ap`, AP50 points in percent that would be gained if this
        kind of error only were repaired; `count`, the number of errors.
    """
    found = evaluation.coco_eval.tide_errors()
    return {
        "kinds": [*ERRORS],
        "ap": [100 * found["delta_ap"][kind] for kind in ERRORS],
        "count": [found["counts"][kind] for kind in ERRORS],
    }


def label_errors(evaluation: HotcocoEvaluation, class_names: list[str]) -> list[dict]:
    """The most probable errors in the ground truth, the highest score first.

    A detection with a score of at least 0.5 either has another class than the instance at its place
    ("class") or lies where no instance is ("missing"). A place is the same from a box IoU of 0.5
    on, also with masks.

    Returns:
        at most `MAX_LABEL_ERRORS` dicts with `kind`, `predicted` and `labelled` (names of classes;
        None if missing), and what the detection has of the keys of a COCO result: `image_id`,
        `category_id`, `score`, `bbox` (x, y, w, h in pixels) and `segmentation`.
    """
    names = dict(enumerate(class_names, start=1))
    found = evaluation.coco_eval.image_diagnostics(iou_thr=0.5, score_thr=0.5)["label_errors"]
    found.sort(key=lambda error: (-error["dt_score"], error["dt_id"]))
    errors = []
    for error in found[:MAX_LABEL_ERRORS]:
        result = evaluation.results[error["dt_id"] - 1]
        errors.append(
            {
                "kind": "missing" if error["gt_category_id"] is None else "class",
                "predicted": names[error["dt_category_id"]],
                "labelled": names.get(error["gt_category_id"]),
                **{key: result[key] for key in _RESULT_KEYS if key in result},
            }
        )
    return errors
