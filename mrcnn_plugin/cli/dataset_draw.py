"""`mrcnn dataset draw`: images with their annotations, in one colour per class."""

import argparse
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.data import detection_utils as utils
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode

from ..data.coco_file import sorted_class_names, write_json
from ..data.findings import Severity, format_problems
from ..evaluation.report.draw import class_colors, draw_instances
from .dataset_check import add_data_arguments, read_checked
from .draw_augmented import add_augmented_arguments, draw_augmented

_LINES = 5  # per kind of problem


def add_draw_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `mrcnn dataset draw`."""
    add_data_arguments(parser)
    parser.add_argument("output", type=Path, help="directory for the drawn images")
    parser.add_argument("--num", type=int, default=20, help="how many, at random; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random choice")
    add_augmented_arguments(parser)


def draw(args: argparse.Namespace) -> int:
    """Save images with their annotations drawn on them, and print what could not be drawn."""
    content, findings = read_checked(args.data, args, drop_bad=True)
    with tempfile.TemporaryDirectory() as folder:
        json_file = Path(folder, "usable.json")
        write_json(content, json_file)
        records = load_coco_json(str(json_file), args.data.image_root, str(json_file))
    if args.num and args.num < len(records):
        records = Random(args.seed).sample(records, args.num)
    metadata = Metadata(thing_classes=sorted_class_names(content))
    args.output.mkdir(parents=True, exist_ok=True)
    count = 0
    for record, variant, drawn in _drawings(records, content, metadata, args):
        # An image id can be any text: as part of a file name it must not lead to another directory.
        image_id = re.sub(r"[^\w.-]", "_", str(record["image_id"]))
        path = args.output / f"{image_id}_{Path(record['file_name']).stem}{variant}.jpg"
        cv2.imwrite(str(path), drawn[:, :, ::-1])
        count += 1
    dropped = [p for p in findings.problems if p.severity in (Severity.DROPPED, Severity.ERROR)]
    if dropped:
        print(f"not drawn because they are unusable:\n{format_problems(dropped, limit=_LINES)}")
    print(f"{count} images drawn into {args.output}")
    return 0


def _drawings(
    records: list[dict], content: dict, metadata: Metadata, args: argparse.Namespace
) -> Iterator[tuple[dict, str, np.ndarray]]:
    """(record, end of the file's name, drawn RGB image) of each drawing."""
    if args.augmented:
        yield from draw_augmented(records, content, metadata, args)
        return
    names, colors = metadata.thing_classes, class_colors(metadata)
    for record in records:
        annotations = record["annotations"]
        classes = [a["category_id"] for a in annotations]
        has_masks = all("segmentation" in a for a in annotations)
        drawn = draw_instances(
            utils.read_image(record["file_name"], format="RGB"),
            [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations],
            masks=[a["segmentation"] for a in annotations] if has_masks else (),
            labels=[names[a["category_id"]] + " (crowd)" * bool(a["iscrowd"]) for a in annotations],
            colors=[colors[c] for c in classes],
            scale=1.0,
        )
        yield record, "", drawn
