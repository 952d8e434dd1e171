#!/usr/bin/env python3
"""Compares a training step with detectron2's: `python benchmarks/train_step.py`.

Both models have the same weights and input, one 480x640 image, and sample the same RoIs. A step is
forward, backward and SGD with a learning rate of 0, so that the weights stay equal. The variants
take turns in one process. Peaks of memory are those of a new process per variant. `--stages` prints
instead what each stage computes per second, next to the peak of the machine. `--quick` checks that
everything runs, on a small image. `--device cuda` runs both in float16 with a gradient scaler, on
several 800x1216 images; the peak is what the step allocates beyond what was allocated before.
"""

import argparse
import copy
import sys
import time

import models
import torch
from detectron2.utils.events import EventStorage
from models import C4, FPN
from timing import machine
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def step(variant: str, model: nn.Module, optimizer, scaler, batch: list[dict]):
    """(seconds, losses) of one training step."""
    device = model.device.type
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    batch = copy.deepcopy(batch)
    torch.manual_seed(5)  # the same anchors and RoIs are sampled
    synchronize()
    start = time.perf_counter()
    optimizer.zero_grad()
    with EventStorage(), models.precision(variant, device):
        losses = model(batch)
    scaler.scale(sum(losses.values())).backward()
    scaler.step(optimizer)
    scaler.update()
    synchronize()
    seconds = time.perf_counter() - start
    return seconds, {name: float(loss.detach()) for name, loss in losses.items()}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    trainable = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(trainable, 0.0, momentum=0.9, weight_decay=1e-4)


def build(variant: str, net: str, depth: int, rois: int, device: str = "cpu"):
    keys = ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", rois, "MODEL.DEVICE", device)
    model = models.build(variant, net, depth, *keys).train()
    return model, sgd(model), torch.amp.GradScaler(device, enabled=device == "cuda")


def peak_of_step(*arguments) -> float:
    """Megabytes on the GPU that a step allocates beyond what is allocated now."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step(*arguments)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def compare(net: str, rois: int, args: argparse.Namespace, images: int = 1) -> None:
    batch = models.training_input(args.images, *args.size, images)
    variants = models.VARIANTS[args.device]
    peaks = {}
    if args.device == "cpu" and not args.no_memory:
        for variant in variants:
            child = ("--child", variant, net, rois, "--depth", args.depth)
            child += ("--quick",) if args.quick else ()
            peaks[variant] = models.peak_of_child(__file__, *child)
    built = {variant: build(variant, net, args.depth, rois, args.device) for variant in variants}
    times = {variant: [] for variant in variants}
    for variant in variants:  # warm-up
        _, losses = step(variant, *built[variant], batch)
        values = ", ".join(f"{name} {value:.5g}" for name, value in losses.items())
        print(f"{variant}: {values}")
        if args.device == "cuda":
            peaks[variant] = peak_of_step(variant, *built[variant], batch)
    for _ in range(args.repeats):
        for variant in variants:
            times[variant].append(step(variant, *built[variant], batch)[0])
    print(f"\n{net}, depth {args.depth}, {rois} RoIs an image, {images} images:\n")
    print(models.table(times, peaks), flush=True)


def timed(call) -> float:
    """The median of three calls after a first one, in seconds."""
    call()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[1]


def peak_flops(dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s of a large product of matrices and of a large 3x3 convolution."""
    a = torch.randn(3072, 3072, dtype=dtype)
    x = torch.randn(64, 512, 14, 14, dtype=dtype).to(memory_format=torch.channels_last)
    conv = nn.Conv2d(512, 512, 3, padding=1, dtype=dtype).to(memory_format=torch.channels_last)
    with torch.no_grad():
        return {
            "matmul 3072": 2 * 3072**3 / timed(lambda: a @ a),
            "conv 3x3, 512 channels": 2 * 9 * 512**2 * 64 * 196 / timed(lambda: conv(x)),
        }


def stages(rois: int, args: argparse.Namespace) -> None:
    """Each stage alone, forward and backward, on inputs of the size of the step."""
    model, optimizer, _ = build("ours", C4, args.depth, rois)
    net, heads = model.backbone, model.roi_heads
    height, width = args.size
    res4 = (1, 1024, height // 16, width // 16)
    c = torch.channels_last
    foreground = rois // 4
    corner, size = torch.rand(2, rois, 2) * height * 0.4
    boxes = torch.cat([torch.zeros(rois, 1), corner, corner + height * 0.1 + size], 1)
    classes = torch.randint(80, (foreground,))
    cases = {
        "stem, res2 (frozen)": (lambda x: net.res2(net.stem(x)), (1, 3, height, width), False),
        "res3": (net.res3, (1, 256, height // 4, width // 4), True),
        "res4": (net.res4, (1, 512, height // 8, width // 8), True),
        "RPN head": (lambda x: sum(o[0].sum() for o in model.proposal_generator.rpn_head([x])),
                     res4, True),
        "RoIAlign": (lambda x: heads.pooler.roi_align(x, boxes), res4, True),
        "res5": (heads.res5, (rois, 1024, 7, 7), True),
        "mask head": (lambda x: heads.mask_head.class_logits(x, classes),
                      (foreground, 2048, 7, 7), True),
    }  # fmt: skip
    for dtype in (torch.float32, torch.bfloat16):
        peaks = peak_flops(dtype)
        print(f"\n{dtype}: " + ", ".join(f"{k} {v / 1e9:.0f} GFLOP/s" for k, v in peaks.items()))
        print("\n| stage | GFLOP | ms | GFLOP/s | of the peak |\n|---|---|---|---|---|")
        total = 0.0
        for name, (stage, shape, with_gradient) in cases.items():
            x = torch.randn(shape).to(dtype).to(memory_format=c)
            x = x.float() if name.startswith("stem") else x
            x.requires_grad_(with_gradient)

            def run(stage=stage, x=x, with_gradient=with_gradient, dtype=dtype):
                with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                    output = stage(x)
                if with_gradient:
                    output.backward(torch.ones_like(output))

            with FlopCounterMode(display=False) as counter:
                run()
            flops, seconds = counter.get_total_flops(), timed(run)
            total += seconds
            of_peak = f"{flops / seconds / max(peaks.values()):.0%}"
            row = (
                f"{flops / 1e9:.0f} | {seconds * 1e3:.0f} | {flops / seconds / 1e9:.0f} | {of_peak}"
            )
            print(f"| {name} | {row} |", flush=True)
        seconds = timed(optimizer.step)
        print(f"| optimizer (SGD) | | {seconds * 1e3:.0f} | | |\n\nSum: {total + seconds:.2f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--depth", type=int, default=101, help="of the ResNet")
    parser.add_argument("--rois", type=int, nargs="*", default=[512, 64], help="per image, C4")
    parser.add_argument("--repeats", type=int, help="default: 2 on a CPU, 20 on a GPU")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, nargs="*", help="images; default: 1, on a GPU 2 4 8")
    parser.add_argument("--images", help="a file to use in place of the drawn image")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-fpn", action="store_true", help="without the FPN model")
    parser.add_argument("--no-memory", action="store_true", help="without peaks of memory")
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--quick", action="store_true", help="ResNet-50, 8 RoIs, a small image")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    on_gpu = args.device == "cuda"
    args.size = (800, 1216) if on_gpu else (480, 640)
    args.repeats = args.repeats or (20 if on_gpu else 2)
    args.batch = args.batch or ([2, 4, 8] if on_gpu else [1])
    if args.quick:
        args.depth, args.rois, args.repeats, args.size = 50, [8], 1, models.QUICK_SIZE
    if args.child:
        variant, net, rois = args.child
        built = build(variant, net, args.depth, int(rois))
        step(variant, *built, models.training_input(args.images, *args.size))
        print(models.own_peak())
        return
    print(f"{machine(args.device)}\n")
    if args.stages:
        stages(args.rois[0], args)
        return
    for images in args.batch:
        for rois in args.rois:
            compare(C4, rois, args, images)
        if not args.no_fpn:
            compare(FPN, 8 if args.quick else 512, args, images)


if __name__ == "__main__":
    sys.exit(main())
