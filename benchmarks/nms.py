"""Compares non-maximum suppression of RPN proposals with torchvision's, on the CPU.

    python benchmarks/nms.py [--quick] [--repeats N]

Prints Markdown. The boxes are sorted by score, as proposals are: most of them are jittered copies
of a few objects, the rest lie anywhere. Both sides run alternately; torchvision's list is cut to
the wanted number of boxes. Times are medians in ms, with one thread on both sides. The ratio is
torchvision's time divided by ours, with its median and quartiles over the repeats.
"""

import argparse
import math

import torch
import torchvision
from timing import HEADER, compare, machine

from mrcnn_plugin.layers.nms import nms

HEIGHT, WIDTH = 800, 1344
# Proposals before and after suppression: detectron2's C4 models in inference and in training.
CASES = [(6000, 300), (6000, 1000), (12000, 2000)]


def proposals(count, near_objects, generator):
    """(count, 4) boxes, of which the share `near_objects` overlaps one of 30 objects."""
    uniform = lambda n: torch.rand(n, generator=generator)  # noqa: E731
    size = 16 * torch.exp(uniform(count) * math.log(512 / 16))
    boxes = torch.stack([uniform(count) * WIDTH, uniform(count) * HEIGHT, size, size], 1)
    near = uniform(count) < near_objects
    jitter = 1 + 0.15 * torch.randn((count, 4), generator=generator)
    boxes[near] = (boxes[torch.arange(count) % 30] * jitter)[near]
    centre, half = boxes[:, :2], boxes[:, 2:].abs() / 2
    limit = torch.tensor([WIDTH, HEIGHT], dtype=torch.float32)
    low, high = (centre - half).clamp(min=0), (centre + half).minimum(limit)
    return torch.cat([low, high], 1), torch.randn(count, generator=generator).sort()[0].flip(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one repeat")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    isa = torch.ops.mrcnn_plugin.cpu_isa()
    print(f"{machine('cpu')}, torchvision {torchvision.__version__}, CPU kernels {isa}.\n")
    print(HEADER.format("torchvision", "ours"))
    for count, kept in CASES:
        for near_objects in (0.5, 0.95):
            generator = torch.Generator().manual_seed(0)
            boxes, scores = proposals(count, near_objects, generator)
            theirs = lambda: torchvision.ops.nms(boxes, scores, 0.7)[:kept]  # noqa: B023, E731
            ours = lambda: nms(boxes, scores, 0.7, kept)  # noqa: B023, E731
            assert torch.equal(theirs(), ours())
            name = f"{count} proposals, at most {kept} kept, {near_objects:.0%} near an object"
            result = compare(theirs, ours, repeats=1 if args.quick else args.repeats, device="cpu")
            print(result.row(name), flush=True)


if __name__ == "__main__":
    main()
