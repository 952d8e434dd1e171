#!/usr/bin/env python3
"""Compares prediction with detectron2's predictor: `python benchmarks/inference.py`.

The time is that from a BGR array of 480x640 to instances with masks, at a shorter side of 800
pixels, of detectron2's `DefaultPredictor` and of `Predictor`, with the same weights. Masks have the
image's size in detectron2 and are RLE in ours. The last table is the time from an image of 12
megapixels to the text of a COCO json, for which detectron2 uses its predictor and the conversion of
its COCO evaluator. The variants take turns in one process. Peaks of memory are those of a new
process per variant. `--device cuda` adds float16 in place of bfloat16; its peaks are what a call
allocates beyond what was allocated before. `--quick` checks that everything runs, on a small image.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import models
import numpy as np
import torch
from detectron2.engine import DefaultPredictor
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from models import C4
from timing import machine

from mrcnn_plugin import Predictor
from mrcnn_plugin.checkpoint.model_file import description, write_model_file

MASKS, JSON = "instances with masks", "COCO json"
VARIANTS = {
    "cpu": ("detectron2", "ours", "ours bfloat16"),
    "cuda": ("detectron2", "ours", "ours float16"),
}
THRESHOLD = 0.05  # detectron2's default


class FPNPredictor(DefaultPredictor):
    """detectron2's predictor with our RoIAlign and folded FrozenBN."""

    def __init__(self, cfg, variant: str):
        super().__init__(cfg)
        self.variant = variant
        models.use_roi_align(self.model)
        models.fold_frozen_bn(self.model)

    def __call__(self, image):
        with models.precision(self.variant, self.cfg.MODEL.DEVICE):
            return super().__call__(image)


def predictor(variant: str, net: str, file: Path, args: argparse.Namespace):
    """A function from a BGR array to `Instances`."""
    depth = args.depth
    classes = ("DATASETS.CLASS_NAMES", tuple(f"class {i}" for i in range(80)))
    ours = variant != "detectron2" and net == C4
    options = ["INPUT.MIN_SIZE_TEST", args.size, "MODEL.DEVICE", args.device]
    options += ["MODEL.RPN.POST_NMS_TOPK_TEST", 30] if args.quick else []
    cfg = models.config(variant, net, depth, *options, *(classes if ours else ()))
    if not file.exists():
        weights = models.build("ours", net, depth).state_dict()
        about = (
            description(models.config("ours", C4, depth, *options, *classes)) if net == C4 else {}
        )
        write_model_file(file, weights, about)
    if ours:
        amp = variant.endswith("float16")
        return Predictor(file, device=args.device, threshold=THRESHOLD, amp=amp)
    cfg.merge_from_list(["MODEL.WEIGHTS", str(file)])
    own = DefaultPredictor(cfg) if variant == "detectron2" else FPNPredictor(cfg, variant)
    return lambda image: own(image)["instances"]


def to_json(variant: str, predict):
    """A function from a BGR array to its `Instances`, after it has written them as a COCO json."""

    def run(image):
        found = predict(image)
        if variant == "detectron2":
            json.dumps(instances_to_coco_json(found.to("cpu"), 1))
        else:
            json.dumps(predict.to_coco(found, 1))
        return found

    return run


def build(variant: str, net: str, result: str, file: Path, args: argparse.Namespace):
    predict = predictor(variant, net, file, args)
    return to_json(variant, predict) if result == JSON else predict


def image_of(result: str, args: argparse.Namespace) -> np.ndarray:
    if args.quick:
        return models.image(args.images, *models.QUICK_SIZE)
    return models.image(args.images, *((3000, 4000) if result == JSON else (480, 640)))


def measured(call, image: np.ndarray, device: str):
    """(seconds, megabytes on the GPU that the call allocates or None on a CPU, its result)."""
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    found = call(image)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, (torch.cuda.max_memory_allocated() - before) / 2**20 if on_gpu else None, found


def compare(net: str, result: str, args: argparse.Namespace, folder: str) -> None:
    file, image = Path(folder, f"{net}.pth"), image_of(result, args)
    variants = VARIANTS[args.device]
    built = {variant: build(variant, net, result, file, args) for variant in variants}
    peaks = {}
    if args.device == "cpu" and not args.no_memory:
        for variant in variants:
            child = ("--child", variant, net, result, file, "--depth", args.depth)
            child += ("--quick",) if args.quick else ()
            peaks[variant] = models.peak_of_child(__file__, *child)
    times, scores = {variant: [] for variant in variants}, {}
    for repeat in range(args.repeats + 1):
        for variant in variants:
            seconds, peak, found = measured(built[variant], image, args.device)
            if repeat:  # the first one warms up
                times[variant].append(seconds)
                if peak is not None:
                    peaks[variant] = peak
            scores[variant] = np.sort(found.scores.float().cpu().numpy())[::-1]
    height, width = image.shape[:2]
    print(f"\n{net}, depth {args.depth}, {height}x{width} at {args.size} pixels to {result}:\n")
    print(models.table(times, peaks) + "\n")
    first = scores["detectron2"]
    for variant in variants:
        own = scores[variant]
        both = min(len(own), len(first))
        difference = np.abs(own[:both] - first[:both]).max(initial=0)
        print(f"{variant}: {len(own)} detections, sorted scores differ by up to {difference:.2g}")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--depth", type=int, default=101, help="of the ResNet")
    parser.add_argument("--repeats", type=int, help="default: 3 on a CPU, 20 on a GPU")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--images", help="a file to use in place of the drawn image")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-fpn", action="store_true", help="without the FPN model")
    parser.add_argument("--no-memory", action="store_true", help="without peaks of memory")
    parser.add_argument("--quick", action="store_true", help="ResNet-50, a small image")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.size = 800
    args.repeats = args.repeats or (20 if args.device == "cuda" else 3)
    if args.quick:
        args.depth, args.repeats, args.size = 50, 1, 192
    if args.child:
        variant, net, result, file = args.child
        build(variant, net, result, Path(file), args)(image_of(result, args))
        print(models.own_peak())
        return
    print(machine(args.device))
    with tempfile.TemporaryDirectory() as folder:
        compare(C4, MASKS, args, folder)
        if not args.no_fpn:
            compare(models.FPN, MASKS, args, folder)
        compare(C4, JSON, args, folder)


if __name__ == "__main__":
    main()
