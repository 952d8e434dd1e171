"""The one place that evaluates COCO results: with pycocotools, or with hotcoco."""

import warnings
from dataclasses import dataclass

import numpy as np
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..errors import ConfigError
from . import hotcoco_eval
from .hotcoco_eval import HotcocoEvaluation

ENGINES = ("pycocotools", "hotcoco")


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one task.

    Attributes:
        stats: the numbers of COCO's summary, as `COCOeval.stats`.
        eval: the arrays that `COCOeval.eval` has, (T, R, K, A, M) or (T, K, A, M) float64, such as
            `precision`, `recall` and `scores`.
        iou_thresholds: (T,) float64.
        recall_thresholds: (R,) float64.
        details: the evaluation by hotcoco.
    """

    stats: np.ndarray
    eval: dict
    iou_thresholds: np.ndarray
    recall_thresholds: np.ndarray
    details: HotcocoEvaluation


def check_engine(engine: str) -> None:
    """Check `TEST.COCO_EVAL`, and that hotcoco is installed.

    Raises:
        ConfigError: there is no such engine.
        RunError: hotcoco cannot be imported. The report needs it whatever the engine is.
    """
    if engine not in ENGINES:
        raise ConfigError(f"TEST.COCO_EVAL is {engine!r}; expected {' or '.join(ENGINES)}")
    hotcoco_eval.load_hotcoco()


def tasks_of(results: list[dict]) -> list[str]:
    """The tasks that COCO results can be evaluated for: "bbox", and "segm" and "keypoints"."""
    keys = set().union(*results)
    found = {"segmentation": "segm", "keypoints": "keypoints"}
    return sorted({"bbox", *(task for key, task in found.items() if key in keys)})


def run_coco_eval(
    truth: COCO,
    results: list[dict],
    task: str,
    *,
    max_dets: list[int],
    image_ids: list[int] | None = None,
    oks_sigmas: tuple[float, ...] = (),
    engine: str = "pycocotools",
) -> Evaluation:
    """Evaluate COCO results as detectron2 does, and print the summary.

    Both engines compute the same numbers. hotcoco always runs, because it also computes what the
    report shows; "pycocotools" means that the summary and the arrays are those of the reference.

    Args:
        truth: the ground truth.
        results: not empty. pycocotools adds the keys `id`, `area`, `iscrowd` and, without masks,
            `segmentation` to them unless the task is "segm".
        task: "bbox", "segm" or "keypoints".
        max_dets: three limits on the detections per image. AP is that of the last one.
        image_ids: images to evaluate. None stands for all.
        oks_sigmas: of the keypoints. Empty stands for COCO's.
        engine: one of `ENGINES`.
    """
    options = {"max_dets": max_dets, "image_ids": image_ids, "oks_sigmas": oks_sigmas}
    details = hotcoco_eval.evaluate(truth, results, task, **options)
    if engine == "hotcoco":
        coco_eval = details.coco_eval
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="hotcoco: .* differ")  # set on purpose
            coco_eval.summarize()
    else:
        coco_eval = _run_pycocotools(truth, results, task, **options)
    return Evaluation(
        np.asarray(coco_eval.stats),
        dict(coco_eval.eval),
        np.asarray(coco_eval.params.iouThrs),
        np.asarray(coco_eval.params.recThrs),
        details,
    )


def _run_pycocotools(
    truth: COCO, results: list[dict], task: str, *, max_dets, image_ids, oks_sigmas
) -> COCOeval:
    if task == "segm":
        # With a box, loadRes takes the area of the box for that of the object. The masks are shared
        # with `results`: neither loadRes nor COCOeval changes an RLE.
        results = [{k: v for k, v in result.items() if k != "bbox"} for result in results]
    evaluator = COCOeval if max_dets[2] == 100 else COCOevalMaxDets
    coco_eval = evaluator(truth, truth.loadRes(results), task)
    if task != "keypoints":
        coco_eval.params.maxDets = max_dets
    elif oks_sigmas:
        coco_eval.params.kpt_oks_sigmas = np.array(oks_sigmas)
    if image_ids is not None:
        coco_eval.params.imgIds = image_ids
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    return coco_eval
