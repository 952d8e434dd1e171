"""Photographs for a report: ground truth and prediction beside each other, with the image's AP."""

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools import mask as mask_utils

from ..analysis import MIN_SCORE, pick_images
from .draw import draw_comparison
from .figures import to_uri

_WIDTH = 560  # pixels of a picture; enough for half a desktop page


def instances_of(results: list[dict], height: int, width: int, contiguous: dict) -> Instances:
    """COCO results of one image as detectron2's `Instances`.

    Args:
        results: with `bbox` (x, y, w, h in pixels), `score`, `category_id` and maybe an RLE.
        height, width: of the image in pixels.
        contiguous: category id of the json -> class index.
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
        masks = [mask_utils.decode(r["segmentation"]) for r in results]
        instances.pred_masks = torch.from_numpy(np.stack(masks).astype(bool))
    return instances


def picture_groups(folder: Path, dataset_name: str, analysis: dict) -> list[dict]:
    """The best, median and worst images of an evaluation.

    Args:
        folder: holds `coco_instances_results.json`.
        dataset_name: registered, with the images where it says.
        analysis: of this evaluation.

    Returns:
        `[{"kind": "best", "pictures": [{"file", "ap", "truth", "prediction"}, ...]}, ...]`, the
        last two as `data:` addresses. Images that cannot be found are left out.
    """
    chosen = pick_images(analysis["images"])
    wanted = {image for ids in chosen.values() for image in ids}
    by_image = {image: [] for image in wanted}
    for result in json.loads((folder / "coco_instances_results.json").read_text()):
        if result["image_id"] in wanted and result["score"] >= MIN_SCORE:
            by_image[result["image_id"]].append(result)
    dicts = {d["image_id"]: d for d in DatasetCatalog.get(dataset_name) if d["image_id"] in wanted}
    groups = []
    for kind, ids in chosen.items():
        pictures = [
            _picture(dicts[i], by_image[i], dataset_name, analysis["images"][i])
            for i in ids
            if i in dicts and Path(dicts[i]["file_name"]).exists()
        ]
        if pictures:
            groups.append({"kind": kind, "pictures": pictures})
    return groups


def _picture(dataset_dict: dict, results: list[dict], dataset_name: str, ap: float) -> dict:
    metadata = MetadataCatalog.get(dataset_name)
    height, width = dataset_dict["height"], dataset_dict["width"]
    contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
    contiguous = contiguous or {i: i for i in range(len(metadata.thing_classes))}
    instances = instances_of(results, height, width, contiguous)
    scale = min(4.0, _WIDTH / width)
    truth, prediction = draw_comparison(
        dataset_dict, instances, metadata, min_score=MIN_SCORE, scale=scale
    )
    return {
        "file": Path(dataset_dict["file_name"]).name,
        "ap": f"{ap:.1f}",
        "num_truth": sum(not a.get("iscrowd", 0) for a in dataset_dict["annotations"]),
        "num_predicted": len(instances),
        "truth": jpeg(truth),
        "prediction": jpeg(prediction),
    }


def jpeg(rgb: np.ndarray) -> str:
    """An (h, w, 3) uint8 RGB picture as a `data:` address."""
    _, encoded = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return to_uri(encoded.tobytes(), "jpeg")
