"""AP per image."""

import contextlib
import io

import numpy as np
from pycocotools.cocoeval import COCOeval

from .precision_recall import average_precision


def image_aps(coco_eval: COCOeval) -> dict[int, float | None]:
    """AP of each image as if it were the whole dataset, in percent, by image id.

    It is the mean over the classes that have ground truth in the image, so a false detection of
    another class costs nothing, as in COCO. None stands for an image without ground truth.

    Args:
        coco_eval: with ground truth, detections and parameters; "bbox" or "segm".
    """
    image_ids = np.asarray(coco_eval.params.imgIds).tolist()
    with contextlib.redirect_stdout(io.StringIO()):
        return {image_id: _image_ap(coco_eval, image_id) for image_id in image_ids}


def _image_ap(coco_eval: COCOeval, image_id: int) -> float | None:
    truth = coco_eval.cocoGt.loadAnns(coco_eval.cocoGt.getAnnIds(imgIds=[image_id]))
    if not truth:
        return None
    single = COCOeval(iouType=coco_eval.params.iouType)
    single.cocoGt, single.cocoDt = coco_eval.cocoGt, coco_eval.cocoDt
    single.params.imgIds = [image_id]
    single.params.catIds = sorted({annotation["category_id"] for annotation in truth})
    single.params.iouThrs = coco_eval.params.iouThrs
    single.params.areaRng = coco_eval.params.areaRng[:1]  # all areas
    single.params.areaRngLbl = coco_eval.params.areaRngLbl[:1]
    single.params.maxDets = coco_eval.params.maxDets[-1:]
    single.evaluate()
    single.accumulate()
    return average_precision(single.eval["precision"])
