"""Tables and curves of an evaluation, which the report shows. They are computed only once."""

import json
from pathlib import Path

from pycocotools.cocoeval import COCOeval

from ..checkpoint.files import write_atomically
from .calibration import calibration, scored_detections
from .confusion import confusion_matrix
from .f1 import f1_curves
from .image_ap import image_aps
from .precision_recall import ap_table, pr_curves

FILE_NAME = "analysis.json"
MIN_SCORE = 0.5  # of the detections in the confusion matrix and in the images of the report


def analyse(coco_evals: dict[str, COCOeval], class_names: list[str], dataset_name: str) -> dict:
    """Compute the tables and curves of one evaluation, as plain Python values.

    Args:
        coco_evals: accumulated, by task: "bbox" and, with masks, "segm". Confusion matrix,
            calibration and AP per image are those of masks if there are any.
        class_names: in the order of category ids.
        dataset_name: registered name.
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
        "f1": f1_curves(evaluated, class_names),
        "calibration": calibration(*scored_detections(evaluated)),
        "images": [*image_aps(evaluated).items()],
    }


def save_analysis(analysis: dict, folder: str | Path) -> None:
    """Write an analysis into a folder. Raises a `RunError` if this is not possible."""
    content = json.dumps(analysis).encode()
    write_atomically(Path(folder, FILE_NAME), lambda file: file.write(content))


def load_analysis(folder: str | Path) -> dict | None:
    """Read what `save_analysis` wrote into a folder. Returns None if there is no file."""
    file = Path(folder, FILE_NAME)
    if not file.exists():
        return None
    analysis = json.loads(file.read_text())
    analysis["images"] = dict(analysis["images"])
    return analysis
