"""mrcnn dataset: check, describe, draw and convert your own datasets (docs/custom_data.md).

    mrcnn dataset convert labelme photos/ photos/ my.json --classes labels.txt
    mrcnn dataset convert via via_project.json photos/ my.json --attribute kind
    mrcnn dataset convert masks masks/ photos/ my.json
    mrcnn dataset convert voc VOC2012/ VOC2012/JPEGImages my.json
    mrcnn dataset check my.json:photos --full
    mrcnn dataset check train.json:photos --val val.json:photos
    mrcnn dataset stats my.json:photos --plot stats.png
    mrcnn dataset draw my.json:photos drawn/ --num 20
    mrcnn dataset draw my.json:photos drawn/ --augmented 4 --opts INPUT.AUG.ENABLED True

A dataset is written json:images, as in train_net.py (which also accepts name=json:images). Without
:images, the images are expected in the directory of the json.
"""

import argparse
import random
import re
import shlex
import tempfile
from pathlib import Path

import cv2
from detectron2.data import Metadata
from detectron2.data import detection_utils as utils
from detectron2.data.datasets import load_coco_json
from detectron2.utils.visualizer import Visualizer

from ..data.check import (
    check_content,
    check_num_classes,
    check_overlap,
    check_trainable,
    check_unseen_classes,
)
from ..data.coco_file import DataError, read_coco_json, sorted_class_names, write_json
from ..data.convert import CONVERTERS
from ..data.convert.labelme import read_labelme
from ..data.findings import Findings, Severity, count_severities, format_problems
from ..data.spec import DatasetSpec
from ..data.statistics import coco_statistics
from ..data.statistics_output import format_statistics, plot_statistics
from .draw_augmented import add_augmented_arguments, draw_augmented


def read_checked(spec, *, drop_bad, full=False, class_names=None):
    """(content as it would be trained on, findings) of a dataset."""
    findings = Findings(spec.json_file, drop_bad=drop_bad)
    content = read_coco_json(spec.json_file)
    options = {"class_names": class_names, "full": full}
    return check_content(content, findings, spec.image_root, **options), findings


def check(args):
    """Print every problem; 1 if one of them would stop training."""
    content, findings = read_checked(args.data, drop_bad=args.drop_bad, full=args.full)
    check_trainable(content, findings)
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
    crowds = sum(bool(annotation["iscrowd"]) for annotation in content["annotations"])
    print(
        f"{args.data.json_file}: {len(content['images'])} images, "
        f"{len(content['annotations']) - crowds} annotations to train on"
        + (f" and {crowds} crowd regions" if crowds else "")
        + "; "
        + ", ".join(f"{counts[s]} {s.value}" for s in Severity)
    )
    if args.write:
        write_json(content, args.write)
    if not counts[Severity.ERROR]:
        print(f"next: {_train_command(args)}")
    return int(counts[Severity.ERROR] > 0)


def _train_command(args):
    """A command that trains on what was checked."""
    val = ["--val", str(args.val)] if args.val else ["--val-fraction", "0.2"]
    drop_bad = ["--drop-bad"] if args.drop_bad else []
    config = ["--config-file", "mask_rcnn_R101_C4_finetune.yaml"]
    command = ["mrcnn", "train", *config, "--train", str(args.data), *val, "--epochs", "20"]
    return shlex.join(command + drop_bad)


def stats(args):
    """Print counts and save plots; unusable annotations are not counted."""
    content, findings = read_checked(args.data, drop_bad=True)
    dropped = count_severities(findings.problems)[Severity.DROPPED]
    counted = coco_statistics(content)
    print(format_statistics(counted))
    if dropped:
        print(f"not counted: {dropped} unusable annotations or images, see `check`")
    if args.plot:
        plot_statistics(counted, args.plot, args.data.name)
        print(f"plots: {args.plot}")
    return 0


def draw(args):
    """Save images with their annotations drawn on them."""
    content, _ = read_checked(args.data, drop_bad=True)
    with tempfile.TemporaryDirectory() as folder:
        json_file = Path(folder, "usable.json")
        write_json(content, json_file)
        records = load_coco_json(str(json_file), args.data.image_root, str(json_file))
    if args.num and args.num < len(records):
        records = random.Random(args.seed).sample(records, args.num)
    metadata = Metadata(thing_classes=sorted_class_names(content))
    args.output.mkdir(parents=True, exist_ok=True)
    count = 0
    for record, variant, drawn in _drawings(records, content, metadata, args):
        # An image id can be any text: as part of a file name it must not lead to another directory.
        image_id = re.sub(r"[^\w.-]", "_", str(record["image_id"]))
        path = args.output / f"{image_id}_{Path(record['file_name']).stem}{variant}.jpg"
        cv2.imwrite(str(path), drawn[:, :, ::-1])
        count += 1
    print(f"{count} images drawn into {args.output}")
    return 0


def _drawings(records, content, metadata, args):
    """(record, end of the file's name, drawn RGB image) of each drawing."""
    if args.augmented:
        yield from draw_augmented(records, content, metadata, args)
        return
    for record in records:
        image = utils.read_image(record["file_name"], format="RGB")
        yield record, "", Visualizer(image, metadata).draw_dataset_dict(record).get_image()


def convert(args):
    """Write a COCO json of another tool's annotations, and check it."""
    _reject_overwriting(args)
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


def _reject_overwriting(args):
    """Raise if the output is one of the files that are converted."""
    if not args.output.exists():
        return
    is_input = args.format == "labelme" and read_labelme(args.output) is not None
    if is_input or args.output.samefile(args.source):
        raise DataError(
            f"{args.output} is one of the annotation files to convert and would be overwritten. "
            "Choose another output file"
        )


def read_classes(text):
    """A file with one class per line, or class names separated by commas."""
    lines = Path(text).read_text().splitlines() if Path(text).is_file() else text.split(",")
    return [line.strip() for line in lines if line.strip()]


def argument_parser():
    """The parser of all subcommands; each shows the examples of the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="mrcnn dataset",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    data = {"metavar": "JSON:IMAGES"}

    sub = _add(commands, check, "report every problem; exit status 1 if one would stop training")
    sub.add_argument("data", **data, help="COCO json and directory of the images")
    sub.add_argument("--val", **data, help="also check this dataset against the first")
    sub.add_argument("--num-classes", type=int, help="MODEL.ROI_HEADS.NUM_CLASSES")
    sub.add_argument("--full", action="store_true", help="decode every image (slower)")
    sub.add_argument("--drop-bad", action="store_true", help="skip unusable entries")
    sub.add_argument("--write", type=Path, metavar="JSON", help="write the repaired json")
    sub.add_argument("--limit", type=int, default=0, help="lines per kind of problem; 0 for all")

    sub = _add(commands, stats, "instances per class, sizes, crowding")
    sub.add_argument("data", **data, help="COCO json and directory of the images")
    sub.add_argument("--plot", type=Path, metavar="PNG", help="save plots here")

    sub = _add(commands, draw, "images with their annotations drawn on them")
    sub.add_argument("data", **data, help="COCO json and directory of the images")
    sub.add_argument("output", type=Path, help="directory for the drawn images")
    sub.add_argument("--num", type=int, default=20, help="how many, at random; 0 for all")
    sub.add_argument("--seed", type=int, default=0, help="seed of the random choice")
    add_augmented_arguments(sub)

    sub = _add(commands, convert, "COCO json of labelme, VIA, mask PNGs, VOC PNGs")
    sub.add_argument("format", choices=sorted(CONVERTERS))
    sub.add_argument("source", type=Path, help="json file for via, otherwise a directory")
    sub.add_argument("images", type=Path, help="directory of the images")
    sub.add_argument("output", type=Path, help="COCO json to write")
    sub.add_argument("--classes", help="their order: a file with one per line, or a,b,c")
    sub.add_argument("--attribute", help="via: the region attribute that names the class")
    return parser


def _add(commands, function, text):
    """A subcommand with its examples from the module's docstring."""
    name = function.__name__
    examples = [line for line in __doc__.splitlines() if f"mrcnn dataset {name} " in line]
    sub = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog="examples:\n" + "\n".join(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.set_defaults(function=function)
    return sub


def main(argv=None):
    """Run one subcommand; returns the exit status, or the message of an error."""
    args = argument_parser().parse_args(argv)
    try:
        for name in ("data", "val"):
            if getattr(args, name, None):
                setattr(args, name, DatasetSpec.parse(getattr(args, name)))
        return args.function(args)
    except (DataError, OSError) as error:
        return f"mrcnn dataset: {error}"
