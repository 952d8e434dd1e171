"""The one place that calls COCOeval."""

import numpy as np
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


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
) -> COCOeval:
    """Evaluate COCO results as detectron2 does, with pycocotools.

    Args:
        truth: the ground truth.
        results: not empty. The keys `id`, `area`, `iscrowd` and, without masks, `segmentation` are
            added to them unless the task is "segm".
        task: "bbox", "segm" or "keypoints".
        max_dets: three limits on the detections per image. AP is that of the last one.
        image_ids: images to evaluate. None stands for all.
        oks_sigmas: of the keypoints. Empty stands for COCO's.

    Returns:
        a COCOeval that has evaluated, accumulated and printed its summary.
    """
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
