"""mrcnn predict: find instances in images and videos with a model file (docs/predict.md).

examples:
  mrcnn predict output/model_best.pth photos --out predictions
  mrcnn predict output/model_best.pth photos/*.jpg film.mp4 --out predictions --threshold 0.7
  mrcnn predict output/model_best.pth photos --out predictions --labelme --coco
  mrcnn predict output/model_best.pth photos --out predictions --csv --scale 0.05
  mrcnn predict output/model_best.pth aerial.tif --out predictions --tile 1024
  mrcnn predict output/model_best.pth list.txt --out predictions --shard 3/16

INPUT is an image, a video, a directory (searched with its subdirectories), a glob pattern, or a
.txt file with one path per line, relative to it. The exit status is 1 if a file could not be read,
and 130 after Ctrl-C.
"""

import argparse
import contextlib
import math
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from detectron2.structures import Instances
from PIL import Image
from tqdm import tqdm

from ..data.text import abbreviate
from ..errors import RunError
from ..inference.inputs import Frame, Inputs, is_video
from ..inference.outputs import KINDS, PER_IMAGE, Outputs, without_empty
from ..inference.predictor import Predictor
from ..inference.shards import Shard, check_finished, to_line, write_shard


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mrcnn predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="model file of a run, such as model_best.pth")
    add("inputs", nargs="+", metavar="INPUT", help="images, videos, directories, patterns, .txt")
    add("--out", required=True, metavar="DIR", help="directory for the results")
    add("--threshold", type=float, metavar="T", help="lowest score; default: those of MODEL")
    add("--device", help="cpu or cuda; default: cuda if there is a GPU")
    add("--batch-size", type=positive, default=1, metavar="N", help="images per step; default 1")
    add("--tile", type=positive, metavar="PIXELS", help="predict larger images in such tiles")
    add("--overlap", type=positive, metavar="PIXELS", help="of tiles; default: a fifth of --tile")
    add("--no-overlays", action="store_true", help="do not draw the predictions")
    add("--coco", action="store_true", help="write predictions.json, a COCO json")
    add("--labelme", action="store_true", help="write a labelme json per image, to correct it")
    add(
        "--simplify",
        type=float,
        default=0.0,
        metavar="PIXELS",
        help="tolerance of labelme's polygons; default 0: exact",
    )
    add("--csv", action="store_true", help="write predictions.csv and counts.csv")
    add("--scale", type=float, metavar="MM", help="millimetres per pixel: area_mm2 in the csv")
    add("--masks", action="store_true", help="write a PNG of instance numbers per image")
    add("--shard", metavar="I/N", help="only part I of N, into one predictions-*.jsonl.gz")
    return parser


def positive(text: str) -> int:
    """The type of an argument that is a number of something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"is {value}; expected at least 1")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Predict; returns the exit status."""
    args = argument_parser().parse_args(argv)
    args.words = sys.argv[1:] if argv is None else argv
    kinds = _kinds(args)
    shard = Shard.parse(args.shard) if args.shard else None
    if args.tile:
        Image.MAX_IMAGE_PIXELS = None  # whoever asks for tiles has large images
    try:
        inputs = Inputs(args.inputs, skipped_folders=[Path(args.out, kind) for kind in PER_IMAGE])
        _check_folder(args.out, kinds)
        run = _Run(args, inputs)
        return run.predict_shard(shard) if shard else run.predict(kinds)
    except KeyboardInterrupt:
        print(
            f"\nmrcnn predict: stopped. The files of finished images in {args.out} are whole; "
            "those with all images (json, csv, shard) have not been written.",
            file=sys.stderr,
        )
        return 130
    except torch.cuda.OutOfMemoryError as error:
        raise RunError(
            f"the memory of the GPU is full ({str(error).splitlines()[0]}). Pass a smaller "
            "--batch-size, or --tile 1024 for large images."
        ) from error


def _kinds(args: argparse.Namespace) -> list[str]:
    """The outputs that are asked for.

    Raises:
        RunError: options contradict each other.
    """
    args.overlays = not args.no_overlays
    kinds = [kind for kind in KINDS if getattr(args, kind)]
    if args.shard and kinds != ["overlays"] * args.overlays:
        raise RunError("--shard writes one file of its own kind. Pass no other kind of output.")
    if not kinds and not args.shard:
        raise RunError("nothing would be written. Pass --coco, --labelme, --csv or --masks.")
    for option, needed in (("scale", "csv"), ("overlap", "tile"), ("simplify", "labelme")):
        if getattr(args, option) and not getattr(args, needed):
            raise RunError(f"--{option} has no effect without --{needed}. Pass both.")
    if args.scale is not None and not 0 < args.scale < math.inf:
        raise RunError(f"--scale is {args.scale}; expected millimetres per pixel above 0")
    if not 0 <= args.simplify < math.inf:
        raise RunError(f"--simplify is {args.simplify}; expected a number of pixels, 0 or above")
    return kinds


def _check_folder(out: str, kinds: Sequence[str]) -> None:
    """Create --out. Fails before the model is loaded if results cannot or must not go there."""
    try:
        os.makedirs(out, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise RunError(
            f"--out '{out}' cannot be written to ({error.strerror}). Pass a directory in which "
            "files can be created."
        ) from error
    if "labelme" in kinds and any(Path(out, "labelme").rglob("*.json")):
        raise RunError(
            f"{Path(out, 'labelme')} has labelme files, and corrections in them would be lost. "
            "Pass another --out, or delete that directory."
        )


class _Run:
    """One call of the command."""

    def __init__(self, args: argparse.Namespace, inputs: Inputs):
        self.args, self.inputs = args, inputs
        self.num_unreadable = self.num_empty = 0

    def predict(self, kinds: list[str]) -> int:
        predictor = self._predictor(kinds)
        outputs = Outputs(
            self.args.out,
            kinds,
            predictor.class_names,
            scale=self.args.scale,
            tolerance=self.args.simplify,
        )
        for frame, instances in self._results(predictor):
            if instances is not None:
                outputs.add(frame, instances)
        written = outputs.finish()
        self._print_summary(outputs, written)
        return int(self.num_unreadable > 0)

    def predict_shard(self, shard: Shard) -> int:
        path = shard.path(self.args.out)
        self.inputs.select(shard.select(self.inputs.names))
        if path.exists():
            check_finished(path, self.inputs.names)
            print(f"{path} is finished and has not been computed again")
            return 0
        predictor = self._predictor([])
        names = predictor.class_names
        write_shard(path, (to_line(f, i, names) for f, i in self._results(predictor)))
        print(f"{path}: {len(self.inputs.names)} files, {self.num_unreadable} unreadable")
        return int(self.num_unreadable > 0)

    def _predictor(self, kinds: list[str]) -> Predictor:
        args = self.args
        predictor = Predictor(
            args.model,
            device=args.device,
            threshold=args.threshold,
            tile=args.tile,
            overlap=args.overlap,
            batch_size=args.batch_size,
        )
        if "masks" in kinds and not predictor.cfg.MODEL.MASK_ON:
            raise RunError("--masks needs a model with masks, but its MODEL.MASK_ON is False.")
        return predictor

    def _results(self, predictor: Predictor) -> Iterator[tuple[Frame, Instances | None]]:
        """Every image with its instances, or None if it could not be read."""
        frames = self.inputs.read()
        bar = tqdm(total=self.inputs.num_frames(), unit=" images", disable=None)
        with bar, contextlib.closing(frames):
            while batch := list(islice(frames, self.args.batch_size)):
                readable = [frame for frame in batch if frame.image is not None]
                found = iter(predictor([frame.image for frame in readable]))
                for frame in batch:
                    bar.update()
                    if frame.image is None:
                        self.num_unreadable += 1
                        bar.write(f"unreadable: {frame.path}: {frame.error}", file=sys.stderr)
                        yield frame, None
                    else:
                        instances = next(found)
                        kept = without_empty(instances)
                        self.num_empty += len(instances) - len(kept)
                        yield frame, kept

    def _print_summary(self, outputs: Outputs, written: dict[str, Path]) -> None:
        counts = [f"{name} {n}" for name, n in outputs.num_instances.most_common()]
        total = sum(outputs.num_instances.values())
        print(f"{outputs.num_images} images, {total} instances: {abbreviate(counts, 20)}")
        if self.num_empty:
            print(f"{self.num_empty} detections with an empty mask were dropped")
        if self.num_unreadable:
            print(f"{self.num_unreadable} files could not be read (listed above) and were skipped")
        for kind, path in written.items():
            print(f"  {kind:20}{path}")
        if outputs.num_images:
            print(f"next: {self._next_command(written)}")

    def _next_command(self, written: dict[str, Path]) -> str:
        """What to do with the results."""
        root = self.inputs.root
        videos = [name for name in self.inputs.names if is_video(name)]
        if videos and "labelme" in written:  # it has the frames
            frames = os.path.abspath(written["labelme"])
            only_videos = len(videos) == len(self.inputs.names)
            root = frames if only_videos else os.path.commonpath([root, frames])
        root = Path(root)
        root = root.relative_to(Path.cwd()) if root.is_relative_to(Path.cwd()) else root
        if "labelme" in written:
            folder = written["labelme"]
            corrected = shlex.join(["mrcnn", "dataset", "convert", "labelme", str(folder)])
            return (
                f"labelme {shlex.quote(str(folder))}, correct the polygons, then\n"
                f"      {corrected} {shlex.quote(str(root))} corrected.json"
            )
        if "coco" in written and not videos:
            return shlex.join(["mrcnn", "dataset", "check", f"{written['coco']}:{root}"])
        words = [word for word in self.args.words if word != "--no-overlays"]
        words = ["mrcnn", "predict", *words, "--labelme", "--no-overlays"]
        return shlex.join(words) + "   (to correct them)"
