#!/usr/bin/env python3
"""Check, describe, draw and convert data sets of one's own. docs/custom_data.md goes through all.

    mrcnn dataset convert labelme photos/ photos/ my.json --classes labels.txt
    mrcnn dataset convert via via_project.json photos/ my.json --attribute kind
    mrcnn dataset convert masks masks/ photos/ my.json
    mrcnn dataset convert voc VOC2012/ VOC2012/JPEGImages my.json
    mrcnn dataset check my.json:photos --full
    mrcnn dataset check train.json:photos --val val.json:photos
    mrcnn dataset stats my.json:photos --plot stats.png
    mrcnn dataset draw my.json:photos drawn/ --num 20

A data set is written json:images, as in train_net.py (which also takes name=json:images); without
:images they are looked for beside the json.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import cv2
from detectron2.data import Metadata
from detectron2.data import detection_utils as utils
from detectron2.utils.visualizer import Visualizer

from mrcnn_plugin.data.check import (
    check_content,
    check_num_classes,
    check_overlap,
    check_unseen_classes,
)
from mrcnn_plugin.data.coco_file import (
    DataError,
    read_coco_json,
    sorted_class_names,
    to_detectron2,
)
from mrcnn_plugin.data.convert import CONVERTERS
from mrcnn_plugin.data.findings import Findings, Severity, count_severities, format_problems
from mrcnn_plugin.data.spec import DatasetSpec
from mrcnn_plugin.data.statistics import coco_statistics
from mrcnn_plugin.data.statistics_output import format_statistics, plot_statistics


def read_checked(spec, *, drop_bad, full=False, class_names=None):
    """(content as it would be trained on, findings) of a data set."""
    findings = Findings(spec.json_file, drop_bad=drop_bad)
    content = read_coco_json(spec.json_file)
    options = {"class_names": class_names, "full": full}
    return check_content(content, findings, spec.image_root, **options), findings


def check(args):
    """Print every problem; 1 if one of them would stop training."""
    content, findings = read_checked(args.data, drop_bad=args.drop_bad, full=args.full)
    if args.num_classes is not None:
        check_num_classes(content, findings, args.num_classes)
    everything = [findings]
    if args.val:
        names = sorted_class_names(content)
        val, val_findings = read_checked(
            args.val, drop_bad=args.drop_bad, full=args.full, class_names=names
        )
        check_unseen_classes([content], val, val_findings)
        check_overlap(content, args.data.image_root, val, args.val.image_root, findings)
        everything.append(val_findings)
    problems = [problem for findings in everything for problem in findings.problems]
    counts = count_severities(problems)
    if problems:
        print(format_problems(problems, limit=args.limit or None))
    print(
        f"{args.data.json_file}: {len(content['images'])} images, {len(content['annotations'])} "
        "annotations to train on; " + ", ".join(f"{counts[s]} {s.value}" for s in Severity)
    )
    if args.write:
        write_json(content, args.write)
    return int(counts[Severity.ERROR] > 0)


def stats(args):
    """Print counts and save plots; unusable annotations are not counted."""
    content, findings = read_checked(args.data, drop_bad=True)
    left_out = count_severities(findings.problems)[Severity.DROPPED]
    counted = coco_statistics(content)
    print(format_statistics(counted))
    if left_out:
        print(f"not counted: {left_out} unusable annotations or images, see `check`")
    if args.plot:
        plot_statistics(counted, args.plot, args.data.name)
        print(f"plots: {args.plot}")


def draw(args):
    """Save images with their annotations drawn on them."""
    content, _ = read_checked(args.data, drop_bad=True)
    records = to_detectron2(content, args.data.image_root, args.data.name)
    if args.num and args.num < len(records):
        records = random.Random(args.seed).sample(records, args.num)
    metadata = Metadata(thing_classes=sorted_class_names(content))
    args.output.mkdir(parents=True, exist_ok=True)
    for record in records:
        image = utils.read_image(record["file_name"], format="RGB")
        drawn = Visualizer(image, metadata).draw_dataset_dict(record).get_image()
        path = args.output / f"{record['image_id']}_{Path(record['file_name']).stem}.jpg"
        cv2.imwrite(str(path), drawn[:, :, ::-1])
    print(f"{len(records)} images drawn into {args.output}")


def convert(args):
    """Write a COCO json of another tool's annotations, and check it."""
    class_names = read_classes(args.classes) if args.classes else None
    options = {"attribute": args.attribute} if args.format == "via" else {}
    content = CONVERTERS[args.format](args.source, args.images, class_names, **options)
    write_json(content, args.output)
    print(
        f"{args.output}: {len(content['images'])} images, {len(content['annotations'])} objects, "
        f"classes {', '.join(str(c['name']) for c in content['categories'])}"
    )
    args.data = DatasetSpec("converted", str(args.output), str(args.images))
    args.val = args.num_classes = args.write = None
    args.full = args.drop_bad = False
    args.limit = 20
    return check(args)


def read_classes(text):
    """A file with a class a line, or class names with commas between them."""
    lines = Path(text).read_text().splitlines() if Path(text).is_file() else text.split(",")
    return [line.strip() for line in lines if line.strip()]


def write_json(content, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def parse_arguments():
    kind = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(description=__doc__, **kind)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    data = {"type": DatasetSpec.parse, "metavar": "JSON:IMAGES"}

    sub = commands.add_parser("check", help="say what is wrong; exit status 1 if it stops training")
    sub.add_argument("data", **data, help="COCO json and directory of the images")
    sub.add_argument("--val", **data, help="also check this one against the first")
    sub.add_argument("--num-classes", type=int, help="MODEL.ROI_HEADS.NUM_CLASSES")
    sub.add_argument("--full", action="store_true", help="decode every image (slower)")
    sub.add_argument("--drop-bad", action="store_true", help="leave out what is unusable")
    sub.add_argument("--write", type=Path, metavar="JSON", help="write the mended json")
    sub.add_argument("--limit", type=int, default=0, help="lines a kind of problem; 0: all")

    sub = commands.add_parser("stats", help="instances per class, sizes, crowding")
    sub.add_argument("data", **data)
    sub.add_argument("--plot", type=Path, metavar="PNG", help="save plots here")

    sub = commands.add_parser("draw", help="images with their annotations drawn on them")
    sub.add_argument("data", **data)
    sub.add_argument("output", type=Path, help="directory for the drawn images")
    sub.add_argument("--num", type=int, default=20, help="how many, by chance; 0: all")
    sub.add_argument("--seed", type=int, default=0, help="which ones")

    sub = commands.add_parser("convert", help="COCO json of labelme, VIA, mask PNGs, VOC PNGs")
    sub.add_argument("format", choices=sorted(CONVERTERS))
    sub.add_argument("source", type=Path, help="labelme: folder, via: json, masks and voc: folder")
    sub.add_argument("images", type=Path, help="directory of the images")
    sub.add_argument("output", type=Path, help="COCO json to write")
    sub.add_argument("--classes", help="their order: a file with one a line, or a,b,c")
    sub.add_argument("--attribute", help="via: the region attribute that names the class")
    return parser.parse_args()


def main():
    args = parse_arguments()
    command = {"check": check, "stats": stats, "draw": draw, "convert": convert}[args.command]
    try:
        return command(args)
    except (DataError, OSError) as error:
        return f"mrcnn dataset: {error}"


if __name__ == "__main__":
    sys.exit(main())
