"""The AP of each single image."""

import contextlib
import copy
import io

import numpy as np
from pycocotools.cocoeval import COCOeval

from .precision_recall import average_precision


def image_aps(coco_eval: COCOeval) -> dict[int, float | None]:
    """AP of each image as if it were the whole dataset, in percent, by image id.

    This is the mean over the classes that the image has instances of. A false detection of another
    class costs nothing, because COCO skips classes without instances. None for an image without
    instances.

    Args:
        coco_eval: evaluated, with `evalImgs`.
    """
    params = coco_eval.params
    num_images, num_areas = len(params.imgIds), len(params.areaRng)
    result = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for position, image_id in enumerate(np.asarray(params.imgIds).tolist()):
            of_class = coco_eval.evalImgs[position :: num_images * num_areas]  # all areas
            with_truth = [
                (category, evaluated)
                for category, evaluated in zip(params.catIds, of_class)
                if evaluated is not None and len(evaluated["gtIds"])
            ]
            result[image_id] = _accumulate(coco_eval, image_id, with_truth)
    return result


def _accumulate(coco_eval: COCOeval, image_id: int, with_truth: list) -> float | None:
    """COCOeval's own accumulation over one image."""
    if not with_truth:
        return None
    single = copy.copy(coco_eval)
    single.params = copy.copy(coco_eval.params)
    single.params.imgIds = [image_id]
    single.params.catIds = [category for category, _ in with_truth]
    single.params.areaRng = coco_eval.params.areaRng[:1]
    single.params.maxDets = coco_eval.params.maxDets[-1:]
    single._paramsEval = single.params  # accumulate() reads it; only evaluate() would set it
    single.evalImgs = [evaluated for _, evaluated in with_truth]
    single.accumulate()
    return average_precision(single.eval["precision"])
