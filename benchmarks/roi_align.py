"""Compares RoIAlign with torchvision's: the same inputs in one process, and fresh outputs.

    python benchmarks/roi_align.py [--device cuda] [--quick] [--cases WORD ...] [--repeats N]

Prints Markdown. Both sides run alternately, and every call allocates its output or gradient. Times
are medians in ms. The ratio is the reference's time divided by ours, with its median and quartiles
over the repeats. The second table compares our own times for other layouts and dtypes with those
for contiguous float32 maps.
"""

import argparse
import math
from typing import NamedTuple

import torch
import torchvision
from timing import HEADER, compare, machine

from mrcnn_plugin.layers.multiscale_roi_align import assign_levels, multiscale_roi_align
from mrcnn_plugin.layers.roi_align import roi_align

IMAGE = (800, 1344)  # height, width; a C4 map of it is 50 x 84
SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


class Case(NamedTuple):
    name: str
    rois: int
    bins: int
    channels: int
    mode: str = "avg"
    pyramid: bool = False


CASES = [
    Case("512 RoIs, 14x14, 1x1024x50x84", 512, 14, 1024),
    Case("1000 RoIs, 7x7, 1x1024x50x84", 1000, 7, 1024),
    Case("FPN P2-P5, 1000 RoIs, 7x7, 256 channels", 1000, 7, 256, pyramid=True),
    Case("max, 4 samples, 512 RoIs, 7x7, 1024 channels", 512, 7, 1024, mode="max"),
    Case("1 RoI, 7x7, 1024 channels", 1, 7, 1024),
    Case("8 RoIs, 7x7, 1024 channels", 8, 7, 1024),
    Case("1 channel, 1000 RoIs, 7x7", 1000, 7, 1),
]
LAYOUTS = [
    ("float32 channels-last", torch.float32, torch.channels_last),
    ("bfloat16", torch.bfloat16, torch.contiguous_format),
    ("float16", torch.float16, torch.contiguous_format),
    ("bfloat16 channels-last", torch.bfloat16, torch.channels_last),
]


def coco_like_rois(count, generator):
    """(count, 5): sqrt(area) log-uniform in 16 to 512 input pixels, aspect ratio 0.5 to 2."""
    uniform = lambda: torch.rand(count, generator=generator)  # noqa: E731
    size = 16 * torch.exp(uniform() * math.log(512 / 16))
    aspect = torch.exp((2 * uniform() - 1) * math.log(2))
    width, height = size * aspect.sqrt(), size / aspect.sqrt()
    x = uniform() * (IMAGE[1] - width).clamp(min=0)
    y = uniform() * (IMAGE[0] - height).clamp(min=0)
    return torch.stack([torch.zeros(count), x, y, x + width, y + height], 1)


def ours(case, features, rois):
    options = {"sampling_ratio": 2 if case.mode == "max" else 0, "mode": case.mode}
    if case.pyramid:
        return multiscale_roi_align(features, rois, case.bins, SCALES, **options)
    return roi_align(features[0], rois, case.bins, 1 / 16, **options)


def torchvisions(case, features, rois):
    """What torchvision's op needs for the same result.

    It has no maximum, so a grid with one sample per bin is pooled. It has no pyramid either. There,
    `rois` is a list with the RoIs of each level, and the outputs are not merged: torchvision is not
    charged for assigning levels and merging, whereas our op is.
    """
    if case.mode == "max":
        fine = torchvision.ops.roi_align(features[0], rois, 2 * case.bins, 1 / 16, 1, True)
        return torch.nn.functional.max_pool2d(fine, 2)
    if not case.pyramid:
        return torchvision.ops.roi_align(features[0], rois, case.bins, 1 / 16, 0, True)
    return [
        torchvision.ops.roi_align(f, r, case.bins, scale, 0, True)
        for f, r, scale in zip(features, rois, SCALES)
    ]


def passes(op, case, features, rois):
    """Two calls without arguments: the forward without a graph, and the backward by itself."""

    def forward():
        with torch.no_grad():
            return op(case, features, rois)

    leaves = [f.detach().requires_grad_() for f in features]
    outputs = op(case, leaves, rois)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    generator = torch.Generator().manual_seed(1)
    grads = [torch.empty_like(o) for o in outputs]  # in the layout of the output
    for grad in grads:
        grad.copy_(torch.randn(grad.shape, generator=generator))

    def backward():
        return torch.autograd.grad(outputs, leaves, grads, retain_graph=True)

    return {"forward": forward, "backward": backward}


def make_inputs(case, quick, device):
    generator = torch.Generator().manual_seed(0)
    channels = min(case.channels, 32) if quick else case.channels
    case = case._replace(rois=min(case.rois, 64) if quick else case.rois, channels=channels)
    sizes = [tuple(round(n * s) for n in IMAGE) for s in (SCALES if case.pyramid else (1 / 16,))]
    features = [torch.randn(1, channels, *size, generator=generator) for size in sizes]
    rois = coco_like_rois(case.rois, generator)
    return case, [f.to(device) for f in features], rois.to(device)


def print_comparison(name, reference, calls, args):
    """A row for the forward and one for the backward."""
    for direction, call in calls.items():
        result = compare(reference[direction], call, repeats=args.repeats, device=args.device)
        print(result.row(f"{name}: {direction}"), flush=True)


def compare_with_torchvision(case, args):
    case, features, rois = make_inputs(case, args.quick, args.device)
    their_rois = rois
    if case.pyramid:
        levels = assign_levels(rois, 2, 5)
        their_rois = [rois[levels == level] for level in range(len(SCALES))]
    theirs = passes(torchvisions, case, features, their_rois)
    print_comparison(case.name, theirs, passes(ours, case, features, rois), args)


def compare_layouts(case, args):
    case, features, rois = make_inputs(case, args.quick, args.device)
    reference = passes(ours, case, features, rois)
    for name, dtype, layout in LAYOUTS:
        maps = [features[0].to(dtype).to(memory_format=layout)]
        print_comparison(name, reference, passes(ours, case, maps, rois), args)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="small inputs and one repeat")
    parser.add_argument("--cases", nargs="*", default=[""], help="run the cases with these words")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    args = parser.parse_args()
    if args.quick:
        args.repeats = 1
    return args


def main():
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    isa = torch.ops.mrcnn_plugin.cpu_isa()
    print(
        f"{machine(args.device)}, torchvision {torchvision.__version__}, CPU kernels {isa}; "
        f"{args.repeats} repeats.\n"
    )
    wanted = [case for case in CASES if any(word in case.name for word in args.cases)]
    if wanted:
        print(HEADER.format("torchvision", "ours"))
    for case in wanted:
        compare_with_torchvision(case, args)
    if any(word in "layouts" for word in args.cases):
        print(f"\nOurs, {CASES[1].name}:\n\n{HEADER.format('float32', 'this')}")
        compare_layouts(CASES[1], args)


if __name__ == "__main__":
    main()
