"""Evaluates the saved predictions of a run again."""

from detectron2.config import CfgNode

from .analysis import RESULTS_FILE, inference_folder
from .evaluator import AnalysingCOCOEvaluator


def rebuild_analysis(cfg: CfgNode) -> list[str]:
    """Evaluate the saved predictions of a run again, for all of `DATASETS.TEST`, without the model.

    Returns:
        names of the datasets that have saved predictions.
    """
    done = []
    for name in cfg.DATASETS.TEST:
        folder = inference_folder(cfg, name)
        if (folder / RESULTS_FILE).exists():  # datasets with other evaluators have no such file
            evaluator = AnalysingCOCOEvaluator(
                name, output_dir=str(folder), distributed=False, engine=cfg.TEST.COCO_EVAL
            )
            evaluator.evaluate_saved()
            done.append(name)
    return done
