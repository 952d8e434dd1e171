"""What the report says about predictions, computed once at evaluation and left beside them."""

import json
import math
from pathlib import Path

from detectron2.config import CfgNode
from pycocotools.cocoeval import COCOeval

from .calibration import calibration, scored_detections
from .confusion import confusion_matrix
from .image_ap import image_aps
from .precision_recall import ap_table, pr_curves

FILE_NAME = "analysis.json"
MIN_SCORE = 0.5  # of the detections in the confusion matrix and in the pictures


def analyse(coco_evals: dict[str, COCOeval], class_names: list[str], dataset_name: str) -> dict:
    """Tables and curves of one evaluation, as plain Python values.

    Args:
        coco_evals: accumulated, by task: "bbox" and, with masks, "segm". Confusion, calibration and
            the AP of each image are those of masks if there are any.
        class_names: in the order of category ids.
        dataset_name: as registered.
    """
    main = "segm" if "segm" in coco_evals else "bbox"
    evaluated = coco_evals[main]
    return {
        "dataset": dataset_name,
        "classes": list(class_names),
        "main_task": main,
        "ap": {task: ap_table(e, class_names) for task, e in coco_evals.items()},
        "pr": {task: pr_curves(e) for task, e in coco_evals.items()},
        "confusion": confusion_matrix(evaluated, min_score=MIN_SCORE).tolist(),
        "calibration": calibration(*scored_detections(evaluated)),
        "images": [*image_aps(evaluated).items()],
    }


def inference_folder(cfg: CfgNode, dataset_name: str) -> Path:
    """Where predictions for a data set go: `inference/`, or a folder in it if there are several."""
    folder = Path(cfg.OUTPUT_DIR, "inference")
    return folder / dataset_name if len(cfg.DATASETS.TEST) > 1 else folder


def save_analysis(analysis: dict, folder: str | Path) -> None:
    Path(folder, FILE_NAME).write_text(json.dumps(analysis))


def load_analysis(folder: str | Path) -> dict | None:
    """What `save_analysis` wrote into a folder; None where there is nothing."""
    file = Path(folder, FILE_NAME)
    if not file.exists():
        return None
    analysis = json.loads(file.read_text())
    analysis["images"] = dict(analysis["images"])
    return analysis


def pick_images(image_aps: dict[int, float | None], count: int = 3) -> dict[str, list[int]]:
    """Ids of the `count` best, median and worst images by AP, none twice.

    With fewer than `3 * count` images each group gets a third, rounded up, from the best on.
    """
    ranked = sorted(
        (i for i, ap in image_aps.items() if ap is not None and not math.isnan(ap)),
        key=lambda i: (-image_aps[i], i),
    )
    count = min(count, math.ceil(len(ranked) / 3))
    best, rest = ranked[:count], ranked[count:]
    worst = rest[-count:] if count else []
    between = rest[: len(rest) - len(worst)]
    start = max(0, (len(between) - count) // 2)
    return {"best": best, "median": between[start : start + count], "worst": worst[::-1]}
