"""Computes the analysis of a run again from its saved predictions, without the model."""

import json
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..analysis import FILE_NAME, inference_folder
from ..evaluator import AnalysingCOCOEvaluator


def rebuild_analysis(cfg: CfgNode) -> list[str]:
    """Evaluate the predictions in `OUTPUT_DIR/inference` again, for all of `DATASETS.TEST`.

    Reads `instances_predictions.pth`, or `coco_instances_results.json` if that is missing.

    Returns:
        the names of the datasets that have predictions.
    """
    done = []
    for name in cfg.DATASETS.TEST:
        folder = inference_folder(cfg, name)
        predictions = load_predictions(folder, name)
        if predictions is not None:
            evaluator = AnalysingCOCOEvaluator(name, output_dir=str(folder), distributed=False)
            evaluator.evaluate_saved(predictions)
            done.append(name)
    return done


def has_analysis(cfg: CfgNode) -> bool:
    """Whether every dataset of `DATASETS.TEST` has its analysis."""
    return all((inference_folder(cfg, name) / FILE_NAME).exists() for name in cfg.DATASETS.TEST)


def load_predictions(folder: Path, dataset_name: str) -> list[dict] | None:
    """Predictions as COCOEvaluator gathers them, class indices in `category_id`; None without any.

    Args:
        folder: the output directory of an evaluation.
        dataset_name: registered.
    """
    if (folder / "instances_predictions.pth").exists():
        return torch.load(folder / "instances_predictions.pth", map_location="cpu")
    if not (folder / "coco_instances_results.json").exists():
        return None
    contiguous = MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id", {})
    by_image: dict = {}
    for result in json.loads((folder / "coco_instances_results.json").read_text()):
        category = result["category_id"]
        result["category_id"] = contiguous.get(category, category)
        by_image.setdefault(result["image_id"], []).append(result)
    return [{"image_id": image, "instances": found} for image, found in by_image.items()]
