#!/usr/bin/env python3
"""Counts what torch.compile cannot compile in one piece: `python benchmarks/compile.py`.

Prints the graph breaks of `detectron2_maskrcnn_r_101_c4`, the name of this model in PyTorch's own
benchmarks: of detectron2's model and of this plugin's, in inference and in the training step, with
the reason and the place of each, and of the graph that `mrcnn export` records. Then it compiles the
parts of this plugin's model with `fullgraph=True` for images of any size, and prints the number of
compilations over 20 image sizes. `--inductor` prints the speed of the compiled backbone and the
time of its compilation.
"""

import argparse
import collections
import statistics
import time
from pathlib import Path

import models
import torch
from detectron2.utils.events import EventStorage
from models import C4
from timing import compare, machine
from torch._dynamo.testing import CompileCounter

from mrcnn_plugin.export.graph import InferenceGraph

NAME = "detectron2_maskrcnn_r_101_c4"
SIZES = [(160 + 13 * i, 320 - 7 * i) for i in range(20)]  # height, width


def graph_breaks(run, *arguments) -> tuple[int, list[tuple[str, str]]]:
    """The number of graphs, and per break its reason and its place."""
    torch._dynamo.reset()
    explained = torch._dynamo.explain(run)(*arguments)
    breaks = []
    for found in explained.break_reasons:
        frame = found.user_stack[-1]
        place = "/".join(Path(frame.filename).parts[-2:])
        breaks.append((found.reason.split("\n")[0], f"{place}:{frame.lineno}"))
    return explained.graph_count, breaks


def print_breaks(depth: int) -> None:
    print(f"\n{NAME}, depth {depth}:\n")
    print("| model | mode | graphs | breaks |\n|---|---|---|---|")
    reasons = {}
    for variant in ("detectron2", "ours"):
        model = models.build(variant, C4, depth, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 64)
        batch = models.training_input(None, 224, 224)
        for mode in ("inference", "training"):
            model.train(mode == "training")
            run = model.inference if mode == "inference" else model
            with torch.set_grad_enabled(mode == "training"), EventStorage():
                graphs, breaks = graph_breaks(run, batch)
            reasons[variant, mode] = breaks
            print(f"| {variant} | {mode} | {graphs} | {len(breaks)} |", flush=True)
    graph = InferenceGraph(model.eval(), torch.full((80,), 0.05)).eval()
    with (
        torch.no_grad(),
        torch._dynamo.config.patch(
            assume_static_by_default=False, capture_dynamic_output_shape_ops=True
        ),
    ):
        graphs, breaks = graph_breaks(graph, batch[0]["image"])
    print(f"| the graph of `mrcnn export` | inference | {graphs} | {len(breaks)} |")
    reasons["exported graph,", "inference"] = breaks
    for key in [key for key in reasons if key[0] != "detectron2"]:
        print(f"\n{' '.join(key)}:\n\n| breaks | reason | place |\n|---|---|---|")
        for (reason, place), number in collections.Counter(reasons[key]).most_common():
            print(f"| {number} | {reason} | {place} |")


def parts(model) -> dict:
    """Functions of a float image (1, 3, H, W), each of which has to be one graph."""
    heads, boxes = model.roi_heads, torch.tensor([[0.0, 0, 60, 80], [10, 10, 90, 50]])

    def roi_features(image):
        return heads.res5(heads.pooler.roi_align(model.backbone(image)["res4"], [boxes]))

    return {
        "backbone": lambda image: model.backbone(image)["res4"],
        "RPN head": lambda image: model.proposal_generator.rpn_head(
            [model.backbone(image)["res4"]]
        ),
        "RoIAlign, res5, box head": lambda image: heads.box_predictor(
            roi_features(image).mean(dim=[2, 3])
        ),
        "RoIAlign, res5, mask head": lambda image: heads.mask_head.layers(roi_features(image)),
    }


def print_recompilations(depth: int, sizes: list) -> None:
    model = models.build("ours", C4, depth)
    print(f"\nfullgraph over {len(sizes)} image sizes:\n\n| part | mode | compilations |")
    print("|---|---|---|")
    for mode in ("inference", "training"):
        model.train(mode == "training")
        for name, run in parts(model).items():
            torch._dynamo.reset()
            counter = CompileCounter()
            compiled = torch.compile(run, backend=counter, fullgraph=True, dynamic=True)
            with torch.set_grad_enabled(mode == "training"):
                for height, width in sizes:
                    compiled(torch.rand(1, 3, height, width) * 255)
            print(f"| {name} | {mode} | {counter.frame_count} |", flush=True)


def print_speed(depth: int, repeats: int) -> None:
    model = models.build("ours", C4, depth).eval()
    image = torch.rand(1, 3, 480, 640) * 255
    compiled = torch.compile(model.backbone, fullgraph=True, dynamic=True)
    with torch.no_grad():
        start = time.perf_counter()
        compiled(image)
        seconds = time.perf_counter() - start
        times = compare(
            lambda: model.backbone(image), lambda: compiled(image), repeats=repeats, device="cpu"
        )
    eager, own = (statistics.median(t) for t in times)
    print(
        f"\nbackbone, inference, 480x640: {eager:.3f} s, compiled {own:.3f} s "
        f"({eager / own:.2f}x); compiling took {seconds:.0f} s"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--depth", type=int, default=101, help="of the ResNet")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--inductor", action="store_true", help="compile and time the backbone")
    parser.add_argument("--quick", action="store_true", help="ResNet-50, three image sizes")
    args = parser.parse_args()
    sizes = SIZES
    if args.quick:
        args.depth, sizes = 50, SIZES[:3]
    print(machine("cpu"))
    print_breaks(args.depth)
    print_recompilations(args.depth, sizes)
    if args.inductor:
        print_speed(args.depth, args.repeats)


if __name__ == "__main__":
    main()
