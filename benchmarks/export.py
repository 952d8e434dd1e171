#!/usr/bin/env python3
"""Compares exported files with detectron2's inference: `python benchmarks/export.py`.

The first table has the size of each file and the time from a resized image to boxes, scores,
classes and mask probabilities, on the CPU, with the same weights. The rows take turns. The second
table has smaller weights: a file of int8 weights (dynamic quantization of onnxruntime) and the
model in bfloat16. Its columns compare the detections with those in float32: the share that is found
again, with the same class and an IoU of at least 0.5, and the largest difference of their scores.
`--model FILE --images FILE ...` measures a trained model in its own images.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import models
import torch
from detectron2.structures import Boxes, pairwise_iou
from models import C4
from timing import machine

from mrcnn_plugin import Predictor
from mrcnn_plugin.checkpoint.model_file import description, read_model_file, write_model_file
from mrcnn_plugin.export.formats import FORMATS
from mrcnn_plugin.export.graph import InferenceGraph
from mrcnn_plugin.export.write import about
from mrcnn_plugin.inference.inputs import read_image

DETECTRON2 = "detectron2's inference"


def model_file(folder: Path, depth: int) -> Path:
    """A model with random weights."""
    names = ("DATASETS.CLASS_NAMES", tuple(f"class {i}" for i in range(80)))
    cfg = models.config("ours", C4, depth, *names)
    weights = models.build("ours", C4, depth).state_dict()
    write_model_file(folder / "model.pth", weights, description(cfg))
    return folder / "model.pth"


def files(predictor: Predictor, folder: Path, formats: list[str]) -> dict[str, Path]:
    """Export the model to each format, and ONNX with int8 weights too."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    written = {}
    for name in formats:
        graph = InferenceGraph(predictor.model, predictor.thresholds).eval()
        written[name] = folder / f"{name}{FORMATS[name].suffix}"
        written[name].write_bytes(FORMATS[name].content(graph, about(predictor)))
    written["onnx int8"] = folder / "int8.onnx"
    quantize_dynamic(written["onnx"], written["onnx int8"], weight_type=QuantType.QUInt8)
    return written


def programs(args: argparse.Namespace, file: Path, predictor: Predictor, written: dict) -> dict:
    """Functions from a uint8 image (3, H, W) to boxes, scores, classes and masks."""
    cfg = models.config("detectron2", C4, args.depth)
    if args.model:  # the classes and heads of the file
        own = predictor.model
    else:
        own = models.build_model(cfg).eval()
        own.load_state_dict(read_model_file(file).weights)
        own.roi_heads.box_predictor.test_score_thresh = float(predictor.thresholds.min())

    def detectron2(image):
        (found,) = own.inference([{"image": image}], do_postprocess=False)
        return found.pred_boxes.tensor, found.scores, found.pred_classes

    graph = InferenceGraph(predictor.model, predictor.thresholds).eval()

    def bfloat16(image):
        with torch.autocast("cpu", torch.bfloat16):
            return graph(image)

    runs = {DETECTRON2: detectron2, "bfloat16 (autocast)": bfloat16}
    for name, path in written.items():
        for runtime, run in FORMATS[name.split()[0]].runtimes(path).items():
            runs[f"{name} in {runtime}"] = run
    return runs


def agreement(expected: tuple, found: tuple) -> tuple[int, float]:
    """How many expected detections are found again, and the largest difference of their scores."""
    again, largest = 0, 0.0
    iou = pairwise_iou(Boxes(expected[0].float()), Boxes(found[0].float()))
    iou[expected[2][:, None] != found[2][None]] = 0
    for row, score in zip(iou, expected[1].float()):
        if len(row) and row.max() >= 0.5:
            again += 1
            largest = max(largest, float((found[1].float()[row.argmax()] - score).abs()))
    return again, largest


@torch.no_grad()
def measure(runs: dict, images: list, repeats: int) -> tuple[dict, dict]:
    """Seconds of each run over all images, per repeat, and the last results."""
    times, results = {name: [] for name in runs}, {}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            results[name] = [run(image) for image in images]
            if repeat:  # the first one warms up
                times[name].append((time.perf_counter() - start) / len(images))
    return times, results


def print_table(times: dict, results: dict, sizes: dict) -> None:
    print("| | file MB | median s | times faster (range) | found again | score difference |")
    print("|---|---|---|---|---|---|")
    first, expected = times[DETECTRON2], results[DETECTRON2]
    for name, own in times.items():
        ratios = [a / b for a, b in zip(first, own)]
        ratio = statistics.median(first) / statistics.median(own)
        pairs = [agreement(a, b) for a, b in zip(expected, results[name])]
        again, total = sum(n for n, _ in pairs), sum(len(a[0]) for a in expected)
        size = sizes.get(name.split(" in ")[0])
        print(
            f"| {name} | {f'{size / 1e6:.1f}' if size else ''} | {statistics.median(own):.3f} | "
            f"{ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f}) | {again} of {total} | "
            f"{max(d for _, d in pairs):.1e} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--depth", type=int, default=101, help="of the ResNet")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", help="a model file, in place of random weights")
    parser.add_argument("--images", nargs="*", help="files, in place of a drawn image")
    parser.add_argument("--formats", nargs="*", choices=FORMATS, default=[*FORMATS])
    parser.add_argument("--quick", action="store_true", help="ResNet-50, small, not compiled")
    args = parser.parse_args()
    size = (800, 1067)
    if args.quick:
        args.depth, args.repeats, args.formats, size = 50, 1, ["onnx", "pt2"], models.QUICK_SIZE
    print(machine("cpu"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file = Path(args.model) if args.model else model_file(folder, args.depth)
        predictor = Predictor(file, device="cpu", amp=False, threshold=None if args.model else 0.05)
        pixels = [read_image(name) for name in args.images or []] or [models.image(None, *size)]
        images = [torch.from_numpy(p.transpose(2, 0, 1).copy()) for p in pixels]
        written = files(predictor, folder, args.formats)
        runs = programs(args, file, predictor, written)
        times, results = measure(runs, images, args.repeats)
        sizes = {name: path.stat().st_size for name, path in written.items()}
        print(f"\n{file.name}, {len(images)} images, {tuple(images[0].shape[1:])} pixels:\n")
        print_table(times, results, sizes)


if __name__ == "__main__":
    main()
