"""Compares non-maximum suppression of RPN proposals with torchvision's.

    python benchmarks/nms.py [--device cuda] [--quick] [--repeats N]

Prints Markdown. The boxes are sorted by score, as proposals are. A share of them are jittered
copies of 30 objects, the rest lie anywhere. If many lie anywhere, the wanted number is kept early
in the list and its rest is never compared. If all of them cluster, most of the list has to be
compared. The table shows both ends, the call without a limit, and the position at which our search
stops. Both sides run alternately; torchvision's list is cut to the wanted number. Times are medians
in ms, with one CPU thread on both sides. The ratio is torchvision's time divided by ours, with its
median and quartiles over the repeats.
"""

import argparse
import itertools
import math

import torch
import torchvision
from timing import HEADER, compare, machine

from mrcnn_plugin.layers.nms import nms

HEIGHT, WIDTH = 800, 1344
# Proposals before and after suppression: detectron2's C4 models in inference and in training, and
# without a limit.
COUNTS = [(6000, 300), (6000, 1000), (12000, 2000), (6000, -1)]
# The share of the proposals that are copies of an object, and the jitter of a copy.
CLUSTERS = [(0.5, 0.15), (0.95, 0.15), (1.0, 0.1), (1.0, 0.03)]


def proposals(count, near_objects, jitter, generator):
    """(count, 4) boxes, of which the share `near_objects` overlaps one of 30 objects."""
    uniform = lambda n: torch.rand(n, generator=generator)  # noqa: E731
    size = 16 * torch.exp(uniform(count) * math.log(512 / 16))
    boxes = torch.stack([uniform(count) * WIDTH, uniform(count) * HEIGHT, size, size], 1)
    near = uniform(count) < near_objects
    factors = 1 + jitter * torch.randn((count, 4), generator=generator)
    boxes[near] = (boxes[torch.arange(count) % 30] * factors)[near]
    centre, half = boxes[:, :2], boxes[:, 2:].abs() / 2
    limit = torch.tensor([WIDTH, HEIGHT], dtype=torch.float32)
    low, high = (centre - half).clamp(min=0), (centre + half).minimum(limit)
    return torch.cat([low, high], 1), torch.randn(count, generator=generator).sort()[0].flip(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="one repeat")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    isa = torch.ops.mrcnn_plugin.cpu_isa()
    print(f"{machine(args.device)}, torchvision {torchvision.__version__}, CPU kernels {isa}.\n")
    print(HEADER.format("torchvision", "ours"))
    for (count, most), (near_objects, jitter) in itertools.product(COUNTS, CLUSTERS):
        generator = torch.Generator().manual_seed(0)
        boxes, scores = proposals(count, near_objects, jitter, generator)
        boxes, scores = boxes.to(args.device), scores.to(args.device)
        end = None if most < 0 else most
        theirs = lambda: torchvision.ops.nms(boxes, scores, 0.7)[:end]  # noqa: B023, E731
        ours = lambda: nms(boxes, scores, 0.7, most)  # noqa: B023, E731
        kept = ours()
        if args.device == "cpu":  # torchvision's kernels for GPUs round overlaps differently
            assert torch.equal(theirs(), kept)
        compared = kept[-1] + 1 if len(kept) == most else count
        name = (
            f"{count} proposals, {near_objects:.0%} copies of an object, jitter {jitter:.0%}: "
            f"{len(kept)} kept (at most {'all' if most < 0 else most}), stops after {compared}"
        )
        repeats = 1 if args.quick else args.repeats
        result = compare(theirs, ours, repeats=repeats, device=args.device)
        print(result.row(name), flush=True)


if __name__ == "__main__":
    main()
