#!/usr/bin/env python3
"""Compares torchvision's and mrcnn_plugin's RoIAlign on bad input, as a Markdown table.

    python tools/roi_align_faults.py           both, side by side (docs/roi_align.md)
    python tools/roi_align_faults.py --ours    only mrcnn_plugin

Each case runs in its own process, a fork with limited time and memory, so that a crash is one more
result. The exit status is not 0 if mrcnn_plugin's result is not the expected one in either mode. It
runs on the CPU, on Linux.
"""

import argparse
import functools
import itertools
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
from pathlib import Path

import torch
import torchvision

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mrcnn_plugin import roi_align

SECONDS, GIGABYTES = 10, 4
CASES = {}  # by function: [(input, what mrcnn_plugin should do, op -> what it did in a few words)]


def case(title, expected, *args, **kwargs):
    def add(function):
        answer = functools.partial(function, args=args, **kwargs)
        CASES.setdefault(function, []).insert(0, (title, expected, answer))
        return function

    return add


def ours(features, rois, size, scale=1.0, sampling_ratio=2, mode="avg"):
    return roi_align(features, rois, size, scale, sampling_ratio, mode=mode)


def theirs(features, rois, size, scale=1.0, sampling_ratio=2):
    return torchvision.ops.roi_align(features, rois, size, scale, sampling_ratio, aligned=True)


# ---- The cases -----------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
ALONE = "0 for that RoI, the others unchanged"
CHEAP = "under 50 ms and 64 MB"
EMPTY = "empty or 0, gradient 0"


def images():
    """Two images of ones, with other memory (sevens) before and after them."""
    memory = torch.full((12, 4, 8, 10), 7.0)
    memory[5:7] = 1
    return memory[5:7]


def boxes():
    return torch.tensor(
        [[0, 1, 1, 6, 5], [1, 2, 0.5, 9, 7.5], [1, 0, 0, 4, 4]], dtype=torch.float32
    )


@case("box with a NaN, adaptive grid", ALONE, NAN, sampling_ratio=0)
@case("box with a NaN, 2 x 2 samples", ALONE, NAN)
@case("box with an infinity, 2 x 2 samples", ALONE, INF)
@case("the same, backward", ALONE, INF, backward=True)
def not_finite(op, args, sampling_ratio=2, backward=False):
    (value,) = args
    features = images().requires_grad_()
    rois = boxes()
    rois[1, 3] = value
    output = op(features, rois, 3, sampling_ratio=sampling_ratio)
    others = op(features, boxes()[[0, 2]], 3, sampling_ratio=sampling_ratio)
    if backward:
        gradients = [torch.autograd.grad(o.sum(), features)[0] for o in (output, others)]
        return ALONE if torch.equal(*gradients) else "a gradient that is not the other RoIs'"
    alone = torch.equal(output[[0, 2]], others) and not output[1].any()
    return ALONE if alone else f"values up to {output.abs().max():.3g}"


@case("batch index 2 of 2 images", "RuntimeError: names rois[1]", 2)
@case("batch index -1", "RuntimeError: names rois[1]", -1)
@case("batch index 1000000", "RuntimeError: names rois[1]", 1e6)
@case("batch index 0.7", "RuntimeError: names rois[1]", 0.7)
@case("batch index NaN", "RuntimeError: names rois[1]", NAN)
@case("batch index 2 of 2 images, backward", "RuntimeError: names rois[1]", 2, backward=True)
@case("batch index 1000000, backward", "RuntimeError: names rois[1]", 1e6, backward=True)
def batch_index(op, args, backward=False):
    features, rois = images().requires_grad_(), boxes()
    rois[1, 0] = args[0]
    output = op(features, rois, 3)
    if backward:
        gradient = torch.autograd.grad(output.sum(), features)[0]
        lost = output.numel() - gradient.sum().item()
        return f"gradient of {lost:.0f} bins missing: written elsewhere" if lost > 1 else "accepted"
    if (output[1] == 1).all():
        return "accepted, as some other image"
    return f"returns other memory: {output[1, 0, 0, 0].item():.3g} instead of 1"


@case("map of height 0", EMPTY, (2, 4, 0, 10))
@case("map of width 0", EMPTY, (2, 4, 8, 0))
@case("no channels", EMPTY, (2, 0, 8, 10))
@case("no images, no RoIs", EMPTY, (0, 4, 8, 10), count=0)
@case("no RoIs", EMPTY, (2, 4, 8, 10), count=0)
def empty(op, args, count=3):
    features = torch.ones(args[0], requires_grad=True)
    output = op(features, boxes()[:count], 3)
    output.sum().backward()
    right = output.shape == (count, features.shape[1], 3, 3)
    right = right and not output.any() and not features.grad.any()
    return EMPTY if right else f"{tuple(output.shape)}, up to {output.abs().max():.3g}"


@case("output size 0", "ValueError: output_size must be positive", size=0)
@case("output size -1", "ValueError: output_size must be positive", size=-1)
@case("spatial_scale NaN", "ValueError: spatial_scale must be finite and positive", scale=NAN)
@case("spatial_scale -1", "ValueError: spatial_scale must be finite and positive", scale=-1.0)
@case("RoIs that require a gradient", "ValueError: has no gradient to the boxes", grad=True)
@case("int64 RoIs", "TypeError: rois must be float32 or float64", rois=torch.int64)
@case("float64 RoIs for float32 features", "right", rois=torch.float64)
@case("bfloat16 features", "right", features=torch.bfloat16)
def options(op, args, size=3, grad=False, rois=torch.float32, features=torch.float32, **kwargs):
    rois = boxes().to(rois).requires_grad_(grad)
    output = op(images().to(features), rois, size, **kwargs)
    if output.numel() == 0:
        return f"empty {tuple(output.shape)}"
    if grad:
        output.sum().backward()
        return "accepted, no gradient, no warning" if rois.grad is None else "a gradient"
    value = output[2, 0, 0, 0].item()
    return "right" if abs(value - 1) < 1e-6 else f"accepted, answers {value:.3g} for 1"


@case("float16, box at 1300 px", "error below 0.002", torch.float16)
@case("bfloat16, box at 1300 px", "error below 0.02", torch.bfloat16)
def half(op, args):
    """RoIs in the dtype that the op accepts, which for torchvision is that of the features."""
    features = torch.randn(1, 4, 60, 90, generator=torch.Generator().manual_seed(0)).to(args[0])
    rois = torch.tensor([[0, 1201.3, 803.7, 1377.1, 911.9]])
    expected = op(features.double(), rois.double(), 7, 1 / 16)
    output = op(features, rois.to(args[0]) if op is theirs else rois, 7, 1 / 16)
    error = (output.double() - expected).abs().max().item()
    limit = 0.002 if args[0] == torch.float16 else 0.02
    return f"error below {limit}" if error < limit else f"error {error:.2g}"


@case("box of 1e5 px, adaptive grid", CHEAP, 1e5)
@case("box of 1e9 px, adaptive grid", CHEAP, 1e9)
@case("box of 3e38 px, adaptive grid", CHEAP, 3e38)
@case("sampling_ratio 30000", CHEAP, 100.0, sampling_ratio=30_000)
def cost(op, args, sampling_ratio=0):
    size = args[0]
    features = images().requires_grad_()
    op(features, boxes(), 7).sum().backward()
    rois = torch.tensor([[0, -size / 2, -size / 2, size / 2, size / 2]])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    output = op(features, rois, 7, sampling_ratio=sampling_ratio)
    output.sum().backward()
    seconds = time.perf_counter() - start
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    if not output.isfinite().all():
        return "not finite"
    cheap = seconds < 0.05 and megabytes < 64
    return CHEAP if cheap else f"{seconds:.1f} s, {megabytes:.0f} MB"


@case("reversed box, adaptive grid", "0", [6.0, 5.0, 1.0, 1.0])
@case("box without area, adaptive grid", "0", [3.0, 3.0, 3.0, 3.0])
@case("box without area, 2 x 2 samples", "right", [3.0, 3.0, 3.0, 3.0], sampling_ratio=2)
def degenerate(op, args, sampling_ratio=0):
    rois = torch.tensor([[0, *args[0]]])
    output = op(images(), rois, 3, sampling_ratio=sampling_ratio)
    if not output.any():
        return "0"
    return "right" if (output == 1).all() else f"values up to {output.abs().max():.3g}"


@case("NaN pixel next to the samples", "stays in its bin", NAN)
@case("infinite pixel next to the samples", "stays in its bin", INF)
def leak(op, args):
    """A sample on every pixel centre: the weights of all neighbours are exactly zero."""
    features = torch.zeros(1, 1, 6, 6)
    features[0, 0, 2, 3] = args[0]
    output = op(features, torch.tensor([[0, 0.0, 0.0, 6.0, 6.0]]), 6, sampling_ratio=1)
    bins = (~output.isfinite()).sum().item()
    return "stays in its bin" if bins == 1 else f"in {bins} bins"


@case("forward-mode derivative", "RuntimeError: no forward-mode derivative")
def differentiate_forward(op, args):
    features = images()
    function = lambda f: (op(f, boxes(), 3) ** 2).sum()  # noqa: E731
    tangent = torch.func.jvp(function, (features,), (torch.ones_like(features),))[1]
    return "a tangent of 0" if not tangent.any() else "a tangent"


# ---- Running them --------------------------------------------------------------------------------


def child(connection, answer, op):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the last words of a process that dies
    torch.set_num_threads(1)  # threads do not survive a fork
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (GIGABYTES << 30,) * 2)
    try:
        connection.send(answer(op))
    except Exception as error:
        sentence = str(error).strip().partition("\n")[0]
        sentence = re.sub(r"^\w+, \S+:\d+, ", "", sentence)  # where in C++ it was raised
        connection.send(f"{type(error).__name__}: {sentence}")


def run(answer, op):
    """What a case does, in a few words."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=child, args=(sender, answer, op))
    process.start()
    sender.close()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return f"no answer in {SECONDS} s"
    if process.exitcode < 0:
        return f"**{signal.Signals(-process.exitcode).name}**, the process dies"
    return receiver.recv()


def agrees(outcome, expected):
    """Errors are of the expected type and say the expected words."""
    kind, _, words = expected.partition(": ")
    if not words:
        return outcome == expected
    return outcome.startswith(f"{kind}: ") and words.removeprefix("names ") in outcome


def shorten(text, width=80):
    text = text.replace("|", "/")
    return text if len(text) <= width else text[: width - 3].rstrip() + "..."


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", action="store_true", help="only mrcnn_plugin")
    only_ours = parser.parse_args().ours
    theirs_title = f"torchvision {torchvision.__version__.split('+')[0]}"
    print("| input |" + ("" if only_ours else f" {theirs_title} |") + " mrcnn_plugin |")
    print("|---|" + ("" if only_ours else "---|") + "---|")
    wrong = []
    for title, expected, answer in itertools.chain(*CASES.values()):
        for mode in ("max", "avg"):
            outcome = run(answer, functools.partial(ours, mode=mode))
            if not agrees(outcome, expected):
                wrong.append(f"{title}, mode {mode!r}: {outcome!r} instead of {expected!r}")
        columns = [title, *([] if only_ours else [run(answer, theirs)]), outcome]
        print("| " + " | ".join(map(shorten, columns)) + " |", flush=True)
    if wrong:
        sys.exit("mrcnn_plugin answers otherwise than it should:\n  " + "\n  ".join(wrong))


if __name__ == "__main__":
    main()
