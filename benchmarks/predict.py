#!/usr/bin/env python3
"""Measures masks as RLE and tiles in large images: `python benchmarks/predict.py`.

Compares `encode_masks` with detectron2's way, which pastes every mask into an array of the image's
size and then encodes it. Peaks of memory are those of a new process per case, beyond what it needs
for the inputs. Times are interleaved in one process. The last row is an image of as many discs that
is predicted in tiles, by a predictor that returns the visible part of each disc.
"""

import argparse
import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Boxes, Instances

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import compare, machine
from mrcnn_plugin.inference.masks import RLEMasks, encode_masks
from mrcnn_plugin.inference.tiles import predict_tiles

TILE, OVERLAP = 1024, 128


def objects(count: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth 14x14 probabilities and boxes with sides of 1 to 20 percent of the image's height."""
    torch.manual_seed(0)
    noise = torch.rand(count, 1, 14, 14)
    probabilities = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)[:, 0]
    center = torch.rand(count, 2) * torch.tensor([width, height])
    extent = (0.01 + 0.19 * torch.rand(count, 2)) * height
    boxes = torch.cat([center - extent / 2, center + extent / 2], dim=1)
    limit = torch.tensor([width, height] * 2)
    return probabilities, torch.minimum(boxes.clamp(min=0), limit)


def paste_then_encode(probabilities, boxes, size) -> list[dict]:
    """What detectron2's predictor and COCO evaluator do."""
    pasted = paste_masks_in_image(probabilities, boxes, size)
    return [mask_utils.encode(np.asfortranarray(m.numpy().astype(np.uint8))) for m in pasted]


def discs(count: int, height: int, width: int) -> np.ndarray:
    """An image whose pixels are the number of the disc that they belong to, uint8 (H, W, 1)."""
    rng = np.random.default_rng(0)
    image = np.zeros((height, width, 1), np.uint8)
    cell = int((height * width / count) ** 0.5)
    while (height // cell) * (width // cell) < count:
        cell -= 1
    columns = width // cell
    rows, places = np.ogrid[:cell, :cell]
    for number in range(1, count + 1):
        row, column = divmod(number - 1, columns)
        radius = rng.uniform(0.1, 0.45) * cell
        part = image[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell, 0]
        inside = (rows - cell / 2) ** 2 + (places - cell / 2) ** 2 < radius**2
        part[inside] = number
    return image


def visible_parts(images: list[np.ndarray]) -> list[Instances]:
    """The part of each disc in each tile."""
    found = []
    for image in images:
        numbers = image[:, :, 0]
        present = [n for n in np.unique(numbers).tolist() if n]
        masks = [np.asfortranarray((numbers == n).astype(np.uint8)) for n in present]
        rles = [mask_utils.encode(mask) for mask in masks]
        boxes = np.array([mask_utils.toBbox(rle) for rle in rles]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances(numbers.shape)
        instances.pred_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32))
        instances.scores = torch.ones(len(present))
        instances.pred_classes = torch.zeros(len(present), dtype=torch.int64)
        instances.pred_masks = RLEMasks(rles, numbers.shape)
        found.append(instances)
    return found


def peak(case: str, sizes: tuple[int, int, int]) -> tuple[float, int]:
    """Run a case in a new process.

    Returns:
        the megabytes that it needs beyond its inputs, and how many objects it returns.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(_run_case, case, *sizes).result()


def _run_case(case: str, count: int, height: int, width: int) -> tuple[float, int]:
    encode = encode_masks if case == "ours" else paste_then_encode
    encode(*objects(1, 50, 50), (50, 50))  # loads what is loaded on first use
    inputs = discs(count, height, width) if case == "tiles" else objects(count, height, width)
    before = _resident()
    if case == "tiles":
        found = predict_tiles(visible_parts, inputs, TILE, OVERLAP)
    else:
        found = encode(*inputs, (height, width))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # of kilobytes
    return max(0.0, peak - before), len(found)


def _resident() -> float:
    """Megabytes of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sizes", nargs="*", type=int, metavar="N", help="objects, height, width")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    count, height, width = sizes = tuple(args.sizes) or (100, 4000, 6000)
    torch.set_num_threads(1)
    # First, while this process has no memory that the new ones could use again.
    (theirs_mb, _), (ours_mb, _), (tiles_mb, found) = (
        peak(case, sizes) for case in ("detectron2", "ours", "tiles")
    )
    inputs = *objects(*sizes), (height, width)
    theirs, ours = paste_then_encode(*inputs), encode_masks(*inputs)
    differing = sum(
        int((mask_utils.decode(a) != mask_utils.decode(b)).sum())
        for a, b in zip(theirs, ours)
        if a["counts"] != b["counts"]
    )
    total = sum(int(mask_utils.area(rle)) for rle in theirs)
    calls = [lambda: paste_then_encode(*inputs), lambda: encode_masks(*inputs)]
    times = compare(*calls, repeats=args.repeats, device="cpu")
    seconds = [f"{np.median(side):.2f}" for side in times]
    print(f"{machine('cpu')}\n\n{count} objects, image of {height} x {width}:\n")
    print("| | peak memory MB | time s |\n|---|---|---|")
    print(f"| detectron2: paste, then encode | {theirs_mb:.0f} | {seconds[0]} |")
    print(f"| `encode_masks` | {ours_mb:.0f} | {seconds[1]} |")
    print(f"| {count} discs in tiles of {TILE}: {found} come back | {tiles_mb:.0f} | |")
    print(f"\n{differing} of {total} pixels of the masks differ.")


if __name__ == "__main__":
    main()
