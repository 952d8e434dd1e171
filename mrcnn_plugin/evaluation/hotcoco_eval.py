"""The one place that calls hotcoco, a COCO evaluation in Rust with pycocotools' results.

hotcoco computes the same arrays as pycocotools, bit for bit, in a fraction of the time
(docs/benchmarks.md), and what pycocotools lacks: kinds of errors, label errors, intervals of a
difference. Two traps: ground truth and results must both be hotcoco's objects, and `params`,
`coco_gt` and `eval` return copies, so whole values have to be assigned.
"""

from __future__ import annotations  # hotcoco is imported at its first use

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from pycocotools.coco import COCO

from ..errors import RunError
from .records import check_records

if TYPE_CHECKING:
    import hotcoco

_KEYS = ("bbox", "segmentation", "keypoints", "num_keypoints", "score", "area", "iscrowd")


@dataclass(frozen=True)
class HotcocoEvaluation:
    """An evaluation by hotcoco, and what its ids mean.

    Attributes:
        coco_eval: evaluated and accumulated. Its image, category and result ids are numbers from 1.
        image_ids: of the dataset, in order; image number n is `image_ids[n - 1]`.
        category_ids: likewise.
        results: the COCO results that were evaluated; result number n is `results[n - 1]`.
    """

    coco_eval: hotcoco.COCOeval
    image_ids: list
    category_ids: list
    results: list[dict]


def load_hotcoco() -> ModuleType:
    """Import hotcoco.

    Raises:
        RunError: it is not installed, or cannot be loaded.
    """
    try:
        import hotcoco
    except ImportError as error:
        raise RunError(
            f"hotcoco cannot be imported ({error}). Evaluations of COCO datasets need it. "
            "Run: pip install hotcoco==1.3.0"
        ) from error
    return hotcoco


def evaluated_ids(truth: COCO, image_ids: Sequence | None) -> list:
    """The ids of the images to evaluate, sorted and without duplicates, as COCOeval does it."""
    return sorted(set(truth.getImgIds() if image_ids is None else np.asarray(image_ids).tolist()))


def evaluate(
    truth: COCO,
    results: list[dict],
    task: str,
    *,
    max_dets: Sequence[int],
    image_ids: Sequence | None = None,
    oks_sigmas: Sequence[float] = (),
) -> HotcocoEvaluation:
    """Evaluate COCO results with hotcoco, whatever kinds of ids the ground truth has.

    hotcoco accepts only positive integers as ids, where COCO json files also have text. Images and
    categories are therefore numbered in the order of their ids. Annotations and results of unknown
    categories or of other images are skipped, as in COCOeval.

    Args:
        truth: the ground truth.
        results: COCO results, not changed.
        task: "bbox", "segm" or "keypoints".
        max_dets: three limits on the detections per image.
        image_ids: images to evaluate. None stands for all.
        oks_sigmas: of the keypoints. Empty stands for COCO's.

    Raises:
        RunError: a record lacks what COCOeval reads, has NaN, or is of an image that is not in the
            ground truth; or hotcoco cannot be imported.
    """
    hotcoco = load_hotcoco()
    check_records(truth, results, task)
    images, categories = evaluated_ids(truth, image_ids), sorted(truth.getCatIds())
    evaluated = set(images)
    annotations, results = (
        [r for r in records if r["image_id"] in evaluated and r["category_id"] in truth.cats]
        for records in (truth.dataset.get("annotations", []), results)
    )
    hotcoco_truth, loaded = _numbered(truth, images, categories, annotations, results, task)
    coco_eval = hotcoco.COCOeval(hotcoco_truth, loaded, task)
    if task != "keypoints":
        coco_eval.params.max_dets = sorted(max_dets)  # as COCOeval sorts them
    elif oks_sigmas:
        coco_eval.params.kpt_oks_sigmas = list(oks_sigmas)
    coco_eval.evaluate()
    coco_eval.accumulate()
    return HotcocoEvaluation(coco_eval, images, categories, results)


def _numbered(
    truth: COCO,
    images: list,
    categories: list,
    annotations: list[dict],
    results: list[dict],
    task: str,
) -> tuple[hotcoco.COCO, hotcoco.COCO]:
    """hotcoco's objects for ground truth and results, with numbers from 1 as ids."""
    of_image = {i: number for number, i in enumerate(images, start=1)}
    of_category = {i: number for number, i in enumerate(categories, start=1)}

    def record(source: dict, dropped: str) -> dict:
        return {
            **{key: source[key] for key in _KEYS if key in source and key != dropped},
            "image_id": of_image[source["image_id"]],
            "category_id": of_category[source["category_id"]],
        }

    names = [str(truth.cats[i].get("name", i)) for i in categories]
    hotcoco_truth = load_hotcoco().COCO(
        {
            "images": [_image(truth.imgs[i], number) for i, number in of_image.items()],
            "categories": [{"id": n, "name": name} for n, name in enumerate(names, start=1)],
            "annotations": [
                {**record(a, ""), "id": number} for number, a in enumerate(annotations, start=1)
            ],
        }
    )
    # With a box, load_res takes the area of the box for that of the object, as loadRes does.
    box = "bbox" if task == "segm" else ""
    return hotcoco_truth, hotcoco_truth.load_res([record(r, box) for r in results])


def _image(image: dict, number: int) -> dict:
    sides = {key: int(image[key]) for key in ("height", "width") if key in image}
    return {"id": number, "file_name": str(number), **sides}


def bootstrap(
    first: HotcocoEvaluation, other: HotcocoEvaluation, num_samples: int
) -> dict[str, dict[str, float]]:
    """95 % intervals of the differences `other - first` over resampled images.

    Args:
        first, other: of the same ground truth and task.
        num_samples: of as many images as there are, drawn with replacement. They are the same at
            every call.

    Returns:
        per metric ("AP", "AP50", ...) the `difference`, `lower` and `upper`, in percent, and
        `better`, the share of samples with a positive difference. Undefined metrics are skipped.
    """
    compared = load_hotcoco().compare(first.coco_eval, other.coco_eval, n_bootstrap=num_samples)
    return {
        name: {
            "difference": 100 * compared["deltas"][name],
            "lower": 100 * interval["lower"],
            "upper": 100 * interval["upper"],
            "better": interval["prob_positive"],
        }
        for name, interval in compared["ci"].items()
        if compared["metrics_a"][name] > -1
    }
