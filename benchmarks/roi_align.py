"""RoIAlign against torchvision: one process, the same boxes, a new output tensor in every call.

    python benchmarks/roi_align.py [--quick] [--cases WORD ...] [--repeats N]

Prints markdown. Times are wall medians of interleaved repeats, in ms; a ratio is torchvision's
median over ours. "x limit" is our best time over what this machine needs at least, from rates
measured in the same run: to read the inputs once, to write the output, to do the multiply-adds.
"no cache" is ours with set_output_cache(0): every large output is then memory fresh from the
system, as torchvision's always is.

With a CUDA card the same follows on it, without goals and "no cache". "x limit" is there from the
rates of the card's DRAM and of float32 multiply-adds alone, not of its L2 cache: maps that stay in
that one from call to call are read faster, so that it may be below 1.
"""

import argparse
import math
import mmap
import platform
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision

from mrcnn_plugin.layers.multiscale_roi_align import assign_levels, multiscale_roi_align
from mrcnn_plugin.layers.roi_align import roi_align

IMAGE = (800, 1344)  # height, width; a C4 map of it is 50 x 84
SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


class Case(NamedTuple):
    """`forward_goal` and `backward_goal` are torchvision's time over ours."""

    name: str
    rois: int
    bins: int
    channels: int
    forward_goal: float
    backward_goal: float
    mode: str = "avg"
    pyramid: bool = False


CASES = [
    Case("512 RoIs, 14x14, 1x1024x50x84", 512, 14, 1024, 15, 60),
    Case("1000 RoIs, 7x7, 1x1024x50x84", 1000, 7, 1024, 25, 60),
    Case("FPN P2-P5, 1000 RoIs, 7x7, 256 channels", 1000, 7, 256, 12, 40, pyramid=True),
    Case("max, 4 samples, 512 RoIs, 7x7, 1024 channels", 512, 7, 1024, 20, 40, mode="max"),
    Case("1 RoI, 7x7, 1024 channels", 1, 7, 1024, 1, 1),
    Case("8 RoIs, 7x7, 1024 channels", 8, 7, 1024, 1, 1),
    Case("1 channel, 1000 RoIs, 7x7", 1000, 7, 1, 1, 1),
]
LAYOUTS = [
    ("float32 channels-last", torch.float32, torch.channels_last),
    ("bfloat16", torch.bfloat16, torch.contiguous_format),
    ("float16", torch.float16, torch.contiguous_format),
    ("bfloat16 channels-last", torch.bfloat16, torch.channels_last),
]


def coco_like_rois(count, generator):
    """(count, 5): sqrt(area) log-uniform in 16 to 512 input pixels, aspect 0.5 to 2."""
    uniform = lambda: torch.rand(count, generator=generator)  # noqa: E731
    size = 16 * torch.exp(uniform() * math.log(512 / 16))
    aspect = torch.exp((2 * uniform() - 1) * math.log(2))
    width, height = size * aspect.sqrt(), size / aspect.sqrt()
    x = uniform() * (IMAGE[1] - width).clamp(min=0)
    y = uniform() * (IMAGE[0] - height).clamp(min=0)
    return torch.stack([torch.zeros(count), x, y, x + width, y + height], 1)


def samples_of(case):
    return 2 if case.mode == "max" else 0


def ours(case, features, rois):
    options = {"sampling_ratio": samples_of(case), "mode": case.mode}
    if case.pyramid:
        return multiscale_roi_align(features, rois, case.bins, SCALES, **options)
    return roi_align(features[0], rois, case.bins, 1 / 16, **options)


def torchvisions(case, features, rois):
    """The pyramid is a call a level, the RoIs already divided, the outputs left apart."""
    if case.mode == "max":
        fine = torchvision.ops.roi_align(features[0], rois, 2 * case.bins, 1 / 16, 1, True)
        return torch.nn.functional.max_pool2d(fine, 2)
    if not case.pyramid:
        return torchvision.ops.roi_align(features[0], rois, case.bins, 1 / 16, 0, True)
    return [
        torchvision.ops.roi_align(f, r, case.bins, scale, 0, True)
        for f, r, scale in zip(features, rois, SCALES)
    ]


# ---- Time ----------------------------------------------------------------------------------------


def wait_for_device():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(call):
    wait_for_device()
    start = time.perf_counter()
    result = call()
    wait_for_device()
    elapsed = time.perf_counter() - start
    del result  # freed outside of the measured time, and before the next call allocates
    return elapsed


def interleaved(calls, repeats):
    """The times of each call. Short ones are repeated inside of a repeat, each one timed."""
    times = [[] for _ in calls]
    inner = [max(1, min(20, int(0.02 / seconds(call)))) for call in calls]
    for _ in range(repeats):
        for call, taken, count in zip(calls, times, inner):
            taken.extend(seconds(call) for _ in range(count))
    return times


def passes(op, case, features, rois):
    """Two calls without arguments: the forward without a graph, and the backward alone."""

    def forward():
        with torch.no_grad():
            return op(case, features, rois)

    leaves = [f.detach().requires_grad_() for f in features]
    outputs = op(case, leaves, rois)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(o.shape, generator=generator).to(o) for o in outputs]

    def backward():
        return torch.autograd.grad(outputs, leaves, grads, retain_graph=True)

    return forward, backward


# ---- What the machine can do ---------------------------------------------------------------------


def best(call, repeats=5):
    return min(seconds(call) for _ in range(repeats))


class Machine(NamedTuple):
    read: float  # bytes / s
    copied: float  # bytes read and written / s
    written: float  # bytes written / s
    fresh: float  # the same, into fresh huge pages
    multiply_adds: float  # / s, by a matrix product

    @classmethod
    def measure(cls, megabytes, device="cpu"):
        on_cpu = device == "cpu"
        count = megabytes * 250_000
        source, target = torch.ones(count, device=device), torch.ones(count, device=device)
        size, repeats = (1024, 5) if on_cpu else (4096, 20)
        matrix = torch.randn(size, size, device=device)

        def write_fresh():
            memory = mmap.mmap(-1, 4 * count)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                memory.madvise(mmap.MADV_HUGEPAGE)
            return torch.frombuffer(memory, dtype=torch.float32).zero_()

        return cls(
            4 * count / best(source.sum, repeats),
            8 * count / best(lambda: target.copy_(source), repeats),
            4 * count / best(target.zero_, repeats),
            4 * count / best(write_fresh, 3) if on_cpu else math.nan,
            size**3 / best(lambda: matrix @ matrix, repeats),
        )


def axis_terms(low, high, bins, scale):
    """Pixels that the bins of one axis read, counted for each bin, and together."""
    size = (high - low) * scale / bins
    grid = max(math.ceil(size), 1)
    at = low * scale - 0.5 + (np.arange(bins * grid) + 0.5) * size / grid
    floor = np.floor(at).astype(int).reshape(bins, grid)
    terms = [len(np.union1d(row, row + 1)) for row in floor]
    return sum(terms), floor.max() - floor.min() + 2


def multiply_adds(rois, scales, bins):
    """Of the separable average, for one channel: rows into one, then columns into bins."""
    total = 0
    for (_, x1, y1, x2, y2), scale in zip(rois.tolist(), scales):
        (y_terms, _), (x_terms, x_extent) = (
            axis_terms(low, high, bins, scale) for low, high in ((y1, y2), (x1, x2))
        )
        total += y_terms * x_extent + bins * x_terms
    return total


def limits(case, features, rois, levels, machine):
    """Forward and backward, in seconds; the maximum's comparisons are not counted."""
    maps = sum(4 * f.numel() for f in features)
    output = 4 * case.rois * case.channels * case.bins**2 * (2 if case.mode == "max" else 1)
    scales = [SCALES[level] for level in levels] if case.pyramid else [1 / 16] * case.rois
    arithmetic = multiply_adds(rois, scales, case.bins) * case.channels / machine.multiply_adds
    forward = max(maps / machine.read + output / machine.written, arithmetic)
    backward = max(output / machine.read + maps / machine.written, arithmetic)
    return forward, backward


# ---- Tables --------------------------------------------------------------------------------------


def make_inputs(case, quick):
    generator = torch.Generator().manual_seed(0)
    channels = min(case.channels, 32) if quick else case.channels
    case = case._replace(rois=min(case.rois, 64) if quick else case.rois, channels=channels)
    sizes = [tuple(round(n * s) for n in IMAGE) for s in (SCALES if case.pyramid else (1 / 16,))]
    features = [torch.randn(1, channels, *size, generator=generator) for size in sizes]
    return case, features, coco_like_rois(case.rois, generator)


def without_cache(call, repeats):
    before = set_output_cache(0)
    try:
        return interleaved([call], repeats)[0]
    finally:
        set_output_cache(before)


def print_row(name, calls, goal, limit, repeats, on_cpu):
    mine, theirs = interleaved(calls, repeats)
    mid, reference = statistics.median(mine), statistics.median(theirs)
    ratio = f"{reference / mid:.1f}x"
    if goal is not None:
        ratio += f" ({goal:g}x: {'met' if reference / mid >= goal else 'not met'})"
    cells = [f"{reference * 1e3:.2f}", f"{mid * 1e3:.2f}", ratio, f"{min(mine) / limit:.1f}"]
    if on_cpu:
        fresh = statistics.median(without_cache(calls[0], repeats))
        cells += [f"{fresh * 1e3:.2f}", f"{reference / fresh:.1f}x"]
    else:
        cells += ["-", "-"]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def named(name, device):
    return name if device == "cpu" else f"{torch.cuda.get_device_name()}: {name}"


def bench_case(case, machine, repeats, quick, device):
    """A row for the forward and one for the backward."""
    case, features, rois = make_inputs(case, quick)
    on_cpu = device == "cpu"
    features, rois = [f.to(device) for f in features], rois.to(device)
    levels = assign_levels(rois, 2, 5)
    divided = [rois[levels == level] for level in range(4)] if case.pyramid else rois
    our_passes = passes(ours, case, features, rois)
    their_passes = passes(torchvisions, case, features, divided)
    bounds = limits(case, features, rois.cpu(), levels.tolist(), machine)
    goals = (None, None) if quick or not on_cpu else (case.forward_goal, case.backward_goal)
    name = named(case.name, device)
    for title, *calls, goal, limit in zip(
        ("forward", "backward"), our_passes, their_passes, goals, bounds
    ):
        print_row(f"{name}: {title}", calls, goal, limit, repeats, on_cpu)


def bench_layouts(case, repeats, quick, device):
    """Time for each byte moved, in units of float32 NCHW: 1 is as fast."""
    case, features, rois = make_inputs(case, quick)
    variants = [("float32", torch.float32, torch.contiguous_format), *LAYOUTS]
    both = [
        passes(
            ours,
            case,
            [features[0].to(device, dtype).to(memory_format=layout)],
            rois.to(device),
        )
        for _, dtype, layout in variants
    ]
    forward, backward = (interleaved(calls, repeats) for calls in zip(*both))
    base = statistics.median(forward[0]), statistics.median(backward[0])
    for (name, dtype, _), f, b in zip(variants, forward, backward):
        mids = statistics.median(f), statistics.median(b)
        relative = [4 / dtype.itemsize * mid / reference for mid, reference in zip(mids, base)]
        print(
            f"| {named(name, device)} | {mids[0] * 1e3:.2f} | {mids[1] * 1e3:.2f} "
            f"| {relative[0]:.2f} | {relative[1]:.2f} |",
            flush=True,
        )


def cpu_name():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next(
        (x.split(": ")[1] for x in lines if x.startswith("model name")), "unknown processor"
    )


def print_machine(machine):
    print(
        f"{cpu_name()}, {torch.get_num_threads()} threads; torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}; instruction set {torch.ops.mrcnn_plugin.cpu_isa()}.\n"
        f"This machine: read {machine.read / 1e9:.1f} GB/s, copy {machine.copied / 1e9:.1f} GB/s "
        f"(read + written), write {machine.written / 1e9:.1f} GB/s, write fresh memory "
        f"{machine.fresh / 1e9:.1f} GB/s, "
        f"{2e-9 * machine.multiply_adds:.0f} GFLOP/s.\n"
    )


def print_card(machine):
    print(
        f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}: read "
        f"{machine.read / 1e9:.0f} GB/s, copy {machine.copied / 1e9:.0f} GB/s (read + written), "
        f"write {machine.written / 1e9:.0f} GB/s, {2e-9 * machine.multiply_adds:.0f} GFLOP/s "
        "(float32, no TF32).\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small inputs: does it run at all?")
    parser.add_argument("--cases", nargs="*", default=[""], help="only cases with such a word")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("highest")  # no TF32
    machines = {"cpu": Machine.measure(8 if args.quick else 400)}
    print_machine(machines["cpu"])
    if torch.cuda.is_available():
        machines["cuda"] = Machine.measure(8 if args.quick else 2000, "cuda")
        print_card(machines["cuda"])
    repeats = 1 if args.quick else args.repeats
    wanted = [case for case in CASES if any(word in case.name for word in args.cases)]
    if wanted:
        print(
            "| case | torchvision ms | ours ms | ratio (goal) | x limit | no cache ms | ratio |\n|"
            + "---|" * 7
        )
    for device, machine in machines.items():
        for case in wanted:
            bench_case(case, machine, repeats, args.quick, device)
    if any(word in "layouts" for word in args.cases):
        print(
            "\n1000 RoIs, 7x7, 1x1024x50x84, ours; time a byte relative to float32 (at most 1: met)"
            "\n\n"
            "| features | fwd ms | bwd ms | fwd a byte | bwd a byte |\n|" + "---|" * 5
        )
        for device in machines:
            bench_layouts(CASES[1], repeats, args.quick, device)


if __name__ == "__main__":
    main()
