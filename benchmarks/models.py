"""Pairs of models with equal weights, detectron2's own and this plugin's, and an input for them."""

import contextlib
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mrcnn_plugin import add_mrcnn_config, fold_frozen_bn, get_config_file, use_roi_align  # noqa: E402

VARIANTS = {
    "cpu": ("detectron2", "ours", "ours bfloat16"),
    "cuda": ("detectron2 float16", "ours float16"),
}
QUICK_SIZE = (160, 192)  # height, width of the image of --quick
C4, FPN = "mask_rcnn_R_101_C4_3x", "mask_rcnn_R_101_FPN_3x"


def config(variant: str, net: str, depth: int, *opts) -> CfgNode:
    """The Model Zoo's config of `net`, or this plugin's config of the same model."""
    if variant.startswith("detectron2") or net == FPN:
        cfg = model_zoo.get_config(f"COCO-InstanceSegmentation/{net}.yaml")
    else:
        cfg = get_cfg()
        add_mrcnn_config(cfg)
        cfg.merge_from_file(get_config_file("mask_rcnn_R101_C4_3x_detectron2.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    cfg.merge_from_list(["MODEL.RESNETS.DEPTH", depth, *opts])
    return cfg


def build(variant: str, net: str, depth: int, *opts) -> nn.Module:
    """The model of a variant. All variants get the same random weights."""
    torch.manual_seed(0)
    model = build_model(config(variant, net, depth, *opts))
    seen = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in sorted(model.state_dict().items()):
            if tensor.ndim > 1:
                fan_in = tensor[0].numel()
                values = torch.empty(tensor.shape).normal_(0, (2 / fan_in) ** 0.5, generator=seen)
                tensor.copy_(values)  # the generator of a GPU draws other numbers
            # Random FrozenBN does not normalise. Small branches keep features finite.
            elif name.endswith("conv3.norm.weight"):
                tensor.fill_(0.2)
        model.backbone.get_submodule(_stem(net)).norm.weight.fill_(0.02)
    if net == FPN and not variant.startswith("detectron2"):
        use_roi_align(model)
        fold_frozen_bn(model)
    return model


def _stem(net: str) -> str:
    return "bottom_up.stem.conv1" if net == FPN else "stem.conv1"


def precision(variant: str, device: str = "cpu") -> contextlib.AbstractContextManager:
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(variant.split()[-1])
    return torch.autocast(device, dtype, enabled=dtype is not None)


def image(path: str | None, height: int, width: int) -> np.ndarray:
    """BGR uint8 (height, width, 3): a file that is resized, or discs on a noisy background."""
    if path:
        return cv2.resize(cv2.imread(path), (width, height))
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 160, (height, width, 3), dtype=np.uint8)
    for mask in discs(height, width):
        pixels[mask] = rng.integers(0, 256, 3)
    return pixels


def discs(height: int, width: int, count: int = 8) -> np.ndarray:
    """(count, height, width) bool."""
    rng = np.random.default_rng(1)
    y, x = np.ogrid[:height, :width]
    radius = rng.uniform(0.06, 0.22, count) * height
    centers = rng.uniform(0.2, 0.8, (count, 2)) * (height, width)
    return np.stack([(y - cy) ** 2 + (x - cx) ** 2 < r**2 for (cy, cx), r in zip(centers, radius)])


def training_input(path: str | None, height: int, width: int, batch: int = 1) -> list[dict]:
    """Equal images, in which discs are the objects."""
    masks = BitMasks(torch.from_numpy(discs(height, width)))
    instances = Instances((height, width))
    instances.gt_masks = masks
    instances.gt_boxes = Boxes(masks.get_bounding_boxes().tensor)
    instances.gt_classes = torch.arange(len(masks))
    pixels = torch.from_numpy(image(path, height, width).transpose(2, 0, 1).copy())
    return [{"image": pixels, "instances": instances, "height": height, "width": width}] * batch


def own_peak() -> float:
    """Megabytes: the largest resident size of this process so far.

    `getrusage` would also count what the parent had when it started this process.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def peak_of_child(script: str, *arguments: object) -> float:
    """Run a script that prints `own_peak()` in its last line, and return that."""
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout.split()[-1])


def table(times: dict[str, list[float]], peaks: dict[str, float]) -> str:
    """Medians in seconds, the ratio of the medians to the first row with its range, and peaks."""
    first = next(iter(times))
    lines = ["| variant | median s | times faster (range) | peak memory MB |", "|---|---|---|---|"]
    for name, own in times.items():
        ratios = [a / b for a, b in zip(times[first], own)]
        median = np.median(times[first]) / np.median(own)
        spread = f"{median:.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        peak = f"{peaks[name]:.0f} ({peaks[name] / peaks[first]:.2f}x)" if peaks else ""
        lines.append(f"| {name} | {np.median(own):.3f} | {spread} | {peak} |")
    return "\n".join(lines)
