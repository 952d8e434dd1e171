"""Tables and curves of an evaluation, which the report shows. They are computed only once."""

import json
from pathlib import Path

from detectron2.config import CfgNode
from pycocotools.coco import COCO

from ..checkpoint.files import write_atomically
from .coco_eval import Evaluation
from .confusion import confusion_matrix
from .diagnosis import calibration, error_kinds, image_aps, label_errors, of_each_class
from .f1 import f1_curves
from .precision_recall import ap_table, pr_curves

FILE_NAME = "analysis.json"
RESULTS_FILE = "coco_instances_results.json"  # detectron2's name
MIN_SCORE = 0.5  # of the detections in the confusion matrix and in the images of the report


def analyse(
    evaluations: dict[str, Evaluation], truth: COCO, class_names: list[str], dataset_name: str
) -> dict:
    """Compute the tables and curves of one evaluation, as plain Python values.

    Args:
        evaluations: by task: "bbox" and, with masks, "segm". Everything but `ap` and `pr` is that
            of masks if there are any.
        truth: the ground truth.
        class_names: in the order of category ids.
        dataset_name: registered name.
    """
    main = "segm" if "segm" in evaluations else "bbox"
    details = evaluations[main].details
    return {
        "dataset": dataset_name,
        "classes": list(class_names),
        "main_task": main,
        "ap": {task: ap_table(e, class_names) for task, e in evaluations.items()},
        "pr": {task: pr_curves(e) for task, e in evaluations.items()},
        "confusion": confusion_matrix(truth, details, main, min_score=MIN_SCORE).tolist(),
        "f1": f1_curves(of_each_class(details)),
        "calibration": calibration(details),
        "errors": error_kinds(details),
        "label_errors": label_errors(details, class_names),
        "images": image_aps(details),
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


def inference_folder(cfg: CfgNode, dataset_name: str) -> Path:
    """The folder of a dataset's predictions: `inference/`, or a subfolder if there are several."""
    folder = Path(cfg.OUTPUT_DIR, "inference")
    return folder / dataset_name if len(cfg.DATASETS.TEST) > 1 else folder


def has_analysis(cfg: CfgNode) -> bool:
    """Whether every dataset of `DATASETS.TEST` has an analysis."""
    return all((inference_folder(cfg, name) / FILE_NAME).exists() for name in cfg.DATASETS.TEST)
