"""Configs, models and inputs that several tests need. Nothing here is an expected value."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.env import seed_all_rng
from pycocotools.coco import COCO

from mrcnn_plugin import add_mrcnn_config
from mrcnn_plugin.checkpoint.model_file import description, write_model_file
from mrcnn_plugin.data.masks import to_rle
from mrcnn_plugin.engine import MRCNNTrainer
from mrcnn_plugin.evaluation import AnalysingCOCOEvaluator

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"


def load_cfg(name: str | Path, *opts) -> CfgNode:
    """A config of `configs/` (or a full path) with overrides, for the CPU and random weights."""
    cfg = get_cfg()
    add_mrcnn_config(cfg)
    cfg.merge_from_file(str(CONFIGS / name))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *opts])
    return cfg


def tiny_cfg(*opts) -> CfgNode:
    """The paper's model on a narrow ResNet-18: every component, milliseconds per step."""
    return load_cfg(
        "mask_rcnn_R101_C4.yaml",
        *("MODEL.RESNETS.DEPTH", 18),
        *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
        *("MODEL.RESNETS.NORM", "BN"),
        *("MODEL.BACKBONE.FREEZE_AT", 0),
        *("MODEL.ROI_HEADS.NUM_CLASSES", 3),
        *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
        *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 100),
        *("MODEL.RPN.POST_NMS_TOPK_TEST", 20),
        *("MODEL.ROI_MASK_HEAD.CONV_DIM", 16),
        *opts,
    )


def fake_batch(num_images=2, *, num_classes=3, height=96, width=128, num_instances=3) -> list[dict]:
    """Images of noise with rectangles as instances, as detectron2's mapper would deliver them."""
    batch = []
    for _ in range(num_images):
        corner = torch.rand(num_instances, 2) * torch.tensor([width / 2, height / 2])
        size = 16 + torch.rand(num_instances, 2) * torch.tensor([width / 2 - 16, height / 2 - 16])
        boxes = torch.cat([corner, corner + size], dim=1).floor()
        masks = torch.zeros(num_instances, height, width, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
            mask[y1:y2, x1:x2] = True
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.randint(num_classes, (num_instances,))
        instances.gt_masks = BitMasks(masks)
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        batch.append({"image": image, "instances": instances, "height": height, "width": width})
    return batch


def tame_random_weights(model: torch.nn.Module) -> None:
    """Make a random FrozenBN net behave like a trained one: finite features, scores that differ.

    Without statistics to normalise by, the variance doubles in each of 33 residual blocks; here
    every residual branch is scaled down. Classes and masks are told apart by larger weights.
    """
    with torch.no_grad():
        for name, parameter in model.state_dict().items():
            if name.endswith("conv3.norm.weight"):
                parameter.fill_(0.2)
        model.backbone.stem.conv1.norm.weight.fill_(0.02)  # pixels of 0..255, not of unit variance
        heads = model.roi_heads
        heads.box_predictor.cls_score.weight.normal_(std=0.2)
        heads.box_predictor.bbox_pred.weight.normal_(std=0.02)
        heads.mask_head.predictor.weight.normal_(std=0.2)


def tiny_model_file(path: Path, *opts, **about) -> Path:
    """A model file of `tiny_cfg` with random weights, which finds something in every image."""
    torch.manual_seed(0)
    names = ("apple", "cup", "pen")
    size = ("INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 160)
    cfg = tiny_cfg("DATASETS.CLASS_NAMES", names, *size, *opts)
    model = build_model(cfg)
    if cfg.MODEL.MASK_ON:
        tame_random_weights(model)
    write_model_file(path, model.state_dict(), {**description(cfg), **about})
    return path


def forget(*names: str) -> None:
    """Undo the registration of datasets."""
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def train(cfg: CfgNode, *, resume=False):
    """Train with the generators seeded with 0, and return the trainer."""
    seed_all_rng(0)
    trainer = MRCNNTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def read_metrics(cfg: CfgNode) -> list[dict]:
    """The lines of `metrics.json`."""
    return [json.loads(line) for line in Path(cfg.OUTPUT_DIR, "metrics.json").open()]


def perfect_predictions(name: str) -> tuple[list[dict], list[dict]]:
    """(inputs, outputs) of a model that answers with the ground truth of a registered dataset."""
    inputs, outputs = [], []
    for image in DatasetCatalog.get(name):
        size = image["height"], image["width"]
        annotations = image["annotations"]
        instances = Instances(size)
        x, y, w, h = torch.tensor([a["bbox"] for a in annotations]).float().unbind(1)
        instances.pred_boxes = Boxes(torch.stack([x, y, x + w, y + h], dim=1))
        instances.pred_classes = torch.tensor([a["category_id"] for a in annotations])
        instances.scores = torch.ones(len(annotations))
        masks = [mask_utils.decode(to_rle(a["segmentation"], *size)) for a in annotations]
        instances.pred_masks = torch.from_numpy(np.stack(masks).astype(bool))
        inputs.append({"image_id": image["image_id"]})
        outputs.append({"instances": instances})
    return inputs, outputs


def silent_coco(content: dict) -> COCO:
    """pycocotools' object for a COCO content."""
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def noisy_predictions(name: str) -> tuple[list[dict], list[dict]]:
    """`perfect_predictions` with moved objects, other classes, low scores and images without any.

    It is the same at every call.
    """
    inputs, outputs = perfect_predictions(name)
    generator = torch.Generator().manual_seed(0)
    num_classes = len(MetadataCatalog.get(name).thing_classes)
    for number, output in enumerate(outputs):
        twice = Instances.cat([output["instances"], output["instances"]])
        shift = torch.randint(0, 5, (2,), generator=generator).tolist()
        twice.pred_boxes.tensor += torch.rand(len(twice), 4, generator=generator) * 4
        twice.pred_masks = twice.pred_masks.roll(shift, dims=(1, 2))
        twice.scores = torch.rand(len(twice), generator=generator)
        wrong = torch.rand(len(twice), generator=generator) < 0.2
        twice.pred_classes[wrong] = (twice.pred_classes[wrong] + 1) % num_classes
        output["instances"] = twice[:0] if number == 2 else twice
    return inputs, outputs


def evaluate(name: str, predictions: tuple[list[dict], list[dict]], output_dir: Path) -> dict:
    """COCO's numbers of (inputs, outputs) on a registered dataset."""
    evaluator = AnalysingCOCOEvaluator(name, output_dir=str(output_dir), distributed=False)
    evaluator.reset()
    evaluator.process(*predictions)
    return evaluator.evaluate()


def run_python(*arguments, **environment) -> subprocess.CompletedProcess:
    """This Python in a new process, in the repository: a script of it, or "-c" and code."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        text=True,
        capture_output=True,
        timeout=600,
        check=False,
    )
