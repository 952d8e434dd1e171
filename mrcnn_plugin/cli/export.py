"""mrcnn export: write a model as a file that runs without detectron2 (docs/deploy.md).

examples:
  mrcnn export output/model_best.pth --format pt2 --out model.pt2 --check
  mrcnn export output/model_best.pth --format aoti --out model_aoti.pt2 --check photos/*.jpg
  mrcnn export output/model_best.pth --format onnx --out model.onnx --check photos/*.jpg

The file contains the graph for images of any size, the names of the classes, their score
thresholds and how an image is prepared. --check compares the written file with the model in six
images or more. A file that differs is deleted, and the exit status is 1.
"""

import argparse
import signal
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..errors import RunError
from ..export.check import images_to_check
from ..export.formats import FORMATS
from ..export.write import export_model
from ..inference.predictor import Predictor


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mrcnn export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="model file of a run, such as model_best.pth")
    add("--format", required=True, choices=FORMATS, help="kind of file to write")
    add("--out", required=True, metavar="FILE", help="file to write, with the suffix of the format")
    add("--threshold", type=float, metavar="T", help="lowest score; default: those of MODEL")
    add(
        "--check",
        nargs="*",
        metavar="IMAGE",
        help="compare the file with the model, in these images or else in drawn shapes",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = argument_parser().parse_args(argv)
    path = Path(args.out)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # deletes the unfinished file
    if path.suffix != (suffix := FORMATS[args.format].suffix):
        raise RunError(f"--out is {path}; expected a name that ends in {suffix}")
    predictor = Predictor(args.model, device="cpu", threshold=args.threshold, amp=False)
    images = [] if args.check is None else images_to_check(predictor, args.check)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about their own future
        comparisons = export_model(predictor, path, args.format, images=images)
    for comparison in comparisons:
        print(comparison)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {_result(len(images))}")


def _result(checked: int) -> str:
    return f"equal to the model in {checked} images" if checked else "not checked (--check)"
