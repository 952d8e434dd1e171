"""Images of a report: ground truth next to prediction, with the AP of the image."""

import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from PIL.Image import DecompressionBombError
from pycocotools import mask as mask_utils

from ...data import Findings, check_masks
from ...errors import RunError
from ..analysis import MIN_SCORE, RESULTS_FILE
from .draw import draw_comparison
from .figures import to_uri
from .run_folder import is_in_image_root

logger = logging.getLogger(__name__)

_MAX_MASK_BYTES = 2**31  # of the masks that are drawn into one image
_WIDTH = 560  # pixels of a drawing; enough for half a desktop page


def pick_images(image_aps: dict[int, float | None], count: int = 3) -> dict[str, list[int]]:
    """Ids of the `count` best, median and worst images by AP. No id occurs twice.

    With fewer than `3 * count` images each group gets a third, rounded up, the best group first.
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


def image_groups(
    folder: Path, dataset_name: str, dataset_dicts: Iterable[dict], analysis: dict
) -> list[dict]:
    """Draw the best, median and worst images of an evaluation.

    Args:
        folder: holds the predictions of the evaluation.
        dataset_name: registered, with images that can be read.
        dataset_dicts: of the dataset.
        analysis: of this evaluation.

    Returns:
        `[{"kind": "best", "images": [{"file", "ap", "truth", "prediction"}, ...]}, ...]`, the last
        two as `data:` addresses. Images whose file does not exist, cannot be drawn, or is outside
        the image folder of the dataset, are skipped with a warning.
    """
    chosen = pick_images(analysis["images"])
    wanted = {image for ids in chosen.values() for image in ids}
    dicts = {d["image_id"]: d for d in dataset_dicts if d["image_id"] in wanted}
    predictions = read_predictions(folder, dataset_name, dicts.values())
    groups = []
    for kind, ids in chosen.items():
        images = []
        for i in (i for i in ids if i in dicts):
            pair = draw_pair(dicts[i], predictions[i], dataset_name)
            if pair:
                images.append({"ap": f"{analysis['images'][i]:.1f}", **pair})
        if images:
            groups.append({"kind": kind, "images": images})
    return groups


def read_predictions(
    folder: Path, dataset_name: str, dataset_dicts: Iterable[dict]
) -> dict[int, Instances]:
    """Read the saved predictions for some images, those with a score of at least `MIN_SCORE`.

    Args:
        folder: where the evaluation saved them.
        dataset_name: registered.
        dataset_dicts: of the images, in detectron2's dataset format.

    Returns:
        predictions by image id, on the CPU.
    """
    dicts = {d["image_id"]: d for d in dataset_dicts}
    by_image: dict = {image: [] for image in dicts}
    for result in json.loads((folder / RESULTS_FILE).read_text()):
        if result["image_id"] in dicts and result["score"] >= MIN_SCORE:
            by_image[result["image_id"]].append(result)
    contiguous = contiguous_ids(dataset_name)
    return {
        i: instances_of(results, dicts[i]["height"], dicts[i]["width"], contiguous)
        for i, results in by_image.items()
    }


def contiguous_ids(dataset_name: str) -> dict[int | str, int]:
    """The class index of each category id of a registered dataset."""
    metadata = MetadataCatalog.get(dataset_name)
    contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
    return contiguous or {i: i for i in range(len(metadata.thing_classes))}


def instances_of(results: list[dict], height: int, width: int, contiguous: dict) -> Instances:
    """Convert COCO results of one image to detectron2's `Instances`.

    Args:
        results: with `bbox` (x, y, w, h in pixels), `score`, `category_id` and maybe an RLE.
        height, width: of the image in pixels.
        contiguous: category id of the json -> class index.

    Raises:
        RunError: a mask is not one of an image of this size.
    """
    instances = Instances((height, width))
    boxes = np.array([r["bbox"] for r in results], dtype=np.float32).reshape(-1, 4)
    corners = BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    instances.pred_boxes = Boxes(torch.as_tensor(corners))
    instances.scores = torch.tensor([r["score"] for r in results])
    instances.pred_classes = torch.tensor(
        [contiguous[r["category_id"]] for r in results], dtype=torch.int64
    )
    if results and "segmentation" in results[0]:
        _check_masks(results, height, width)
        masks = [mask_utils.decode(r["segmentation"]) for r in results]
        instances.pred_masks = torch.from_numpy(np.stack(masks).astype(bool))
    return instances


def _check_masks(results: list[dict], height: int, width: int) -> None:
    """pycocotools reads and allocates what an RLE claims, whatever the image is."""
    if len(results) * height * width > _MAX_MASK_BYTES:
        raise RunError(
            f"{len(results)} masks of {height} x {width} pixels are too many to be drawn"
        )
    image = {"id": 0, "height": height, "width": width}
    masks = [
        {"id": number, "image_id": 0, "category_id": 0, "segmentation": r.get("segmentation")}
        for number, r in enumerate(results, start=1)
    ]
    findings = Findings(RESULTS_FILE)
    check_masks({"images": [image], "annotations": masks, "categories": []}, findings)
    faults = [p for p in findings.problems if p.kind != "empty-mask"]
    if faults:
        raise RunError(f"{faults[0]}. Evaluate the run again")


def draw_pair(dataset_dict: dict, instances: Instances, dataset_name: str) -> dict | None:
    """Draw the ground truth and some predictions of an image.

    Returns:
        `file`, the name, `num_truth`, `num_predicted`, and `truth` and `prediction`, two `data:`
        addresses. None, with a warning, if the image cannot be drawn, or is not in the image folder
        of the dataset.
    """
    file = dataset_dict["file_name"]
    if not is_in_image_root(dataset_dict, dataset_name):
        logger.warning(f"{file} is not drawn: it is no file in the image folder of {dataset_name}")
        return None
    try:
        truth, prediction = draw_comparison(
            dataset_dict,
            instances,
            MetadataCatalog.get(dataset_name),
            min_score=MIN_SCORE,
            scale=min(4.0, _WIDTH / dataset_dict["width"]),
        )
    except (OSError, ValueError, DecompressionBombError) as error:
        logger.warning(f"{file} is not drawn: {error}")
        return None
    return {
        "file": Path(file).name,
        "num_truth": sum(not a.get("iscrowd", 0) for a in dataset_dict["annotations"]),
        "num_predicted": len(instances),
        "truth": jpeg(truth),
        "prediction": jpeg(prediction),
    }


def jpeg(rgb: np.ndarray) -> str:
    """Encode an (h, w, 3) uint8 RGB image as a `data:` address."""
    _, encoded = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return to_uri(encoded.tobytes(), "jpeg")
