"""Intervals of the AP differences between runs, so that chance is not taken for progress."""

import logging
import math

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ...errors import RunError
from ..analysis import RESULTS_FILE, inference_folder, load_analysis
from ..evaluator import AnalysingCOCOEvaluator
from ..hotcoco_eval import HotcocoEvaluation, bootstrap
from ..precision_recall import average_precision
from .ap_tables import number

NUM_SAMPLES = 300  # of the images; one takes 0.04 s with 1000 images and 80 classes

logger = logging.getLogger(__name__)


def ap_intervals(cfgs: list[CfgNode], dataset_name: str) -> list[dict[str, dict[str, float]]]:
    """Resample the images of a dataset and compare the saved predictions of runs with the first's.

    Args:
        cfgs: of the runs.
        dataset_name: a test dataset.

    Returns:
        per run, by names as in metrics.json ("segm/AP50"), what `bootstrap` returns. It is empty
        for the first run, and for the others if the dataset is not registered, predictions are
        missing, or predictions do not belong to the registered ground truth, which is logged.
    """
    none: list[dict] = [{} for _ in cfgs]
    if dataset_name not in DatasetCatalog:
        return none
    first, *others = [_evaluations(cfg, dataset_name) for cfg in cfgs]
    if not first:
        return none
    logger.info(f"Resampling {dataset_name} {NUM_SAMPLES} times for intervals of differences ...")
    return [{}, *(_differences(first, other) for other in others)]


def _differences(
    first: dict[str, HotcocoEvaluation], other: dict[str, HotcocoEvaluation]
) -> dict[str, dict[str, float]]:
    return {
        f"{task}/{metric}": interval
        for task in first.keys() & other.keys()
        for metric, interval in bootstrap(first[task], other[task], NUM_SAMPLES).items()
    }


def _evaluations(cfg: CfgNode, dataset_name: str) -> dict[str, HotcocoEvaluation]:
    """The saved predictions of a run against the registered ground truth, by task.

    Runs can use the same name for different annotations, of which one is registered.
    """
    folder = inference_folder(cfg, dataset_name)
    analysis = load_analysis(folder)
    if (
        dataset_name not in cfg.DATASETS.TEST
        or not analysis
        or not (folder / RESULTS_FILE).exists()
    ):
        return {}
    evaluator = AnalysingCOCOEvaluator(dataset_name, output_dir=str(folder), distributed=False)
    try:
        evaluated = evaluator.saved_details()
    except RunError as error:
        logger.warning(f"{folder} is compared without intervals: {error}")
        return {}
    for task, evaluation in evaluated.items():
        ap = average_precision(evaluation.coco_eval.eval["precision"][..., 0, -1])
        saved = analysis["ap"][task]["all"]["AP"]
        if not math.isclose(number(ap) or 0, number(saved) or 0, abs_tol=1e-6):
            logger.warning(
                f"{folder} is compared without intervals: its {task} AP is {saved} with the "
                f"annotations of its run and {ap} with those of the dataset '{dataset_name}' here"
            )
            return {}
    return evaluated
