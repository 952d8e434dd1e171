"""mrcnn dataset: convert, check, describe, draw, split and tile datasets (docs/custom_data.md).

    mrcnn dataset convert labelme photos/ photos/ my.json --classes labels.txt
    mrcnn dataset convert via via_project.json photos/ my.json --attribute kind
    mrcnn dataset convert masks masks/ photos/ my.json
    mrcnn dataset convert voc VOC2012/ VOC2012/JPEGImages my.json
    mrcnn dataset check my.json:photos --full
    mrcnn dataset check train.json:photos --val val.json:photos
    mrcnn dataset stats my.json:photos --plot stats.png
    mrcnn dataset draw my.json:photos drawn/ --num 20
    mrcnn dataset draw my.json:photos drawn/ --augmented 4 --opts INPUT.AUG.ENABLED True
    mrcnn dataset split my.json:photos --out split/ --fractions 0.7 0.15 0.15
    mrcnn dataset split my.json:photos --out split/ --group-by '(.*)_frame'
    mrcnn dataset tile large.json:scans --out tiles/ --size 1024 --overlap 128

A dataset is written json:images, as in train_net.py (which also accepts name=json:images). Without
:images, the images are expected in the directory of the json.
"""

import argparse
from pathlib import Path

from ..data.coco_file import DataError, write_json
from ..data.convert import CONVERTERS
from ..data.convert.labelme import read_labelme
from ..data.findings import Severity, count_severities
from ..data.spec import DatasetSpec
from ..data.statistics import coco_statistics
from ..data.statistics_output import format_statistics, plot_statistics
from ..data.training_sizes import format_training_sizes
from ..engine import load_config
from .dataset_check import add_check_arguments, add_data_arguments, check, read_checked
from .dataset_draw import add_draw_arguments, draw
from .dataset_split import add_split_arguments, split
from .dataset_tile import add_tile_arguments, tile


def stats(args):
    """Print counts and save plots; unusable annotations are not counted."""
    content, findings = read_checked(args.data, args, drop_bad=True)
    dropped = count_severities(findings.problems)[Severity.DROPPED]
    counted = coco_statistics(content)
    print(format_statistics(counted))
    cfg = load_config(args.config_file, args.opts)
    print(format_training_sizes(content, cfg))
    if dropped:
        print(f"not counted: {dropped} unusable annotations or images, see `check`")
    if args.plot:
        plot_statistics(counted, args.plot, args.data.name)
        print(f"plots: {args.plot}")
    return 0


def _add_stats_arguments(parser):
    add_data_arguments(parser)
    parser.add_argument("--plot", type=Path, metavar="PNG", help="save plots here")
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="whose image size and anchors are used; default: detectron2's, 800 x 1333 pixels",
    )
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY VALUE", help="overrides of the config"
    )


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
    spec = DatasetSpec("converted", str(args.output), str(args.images))
    checked = argument_parser().parse_args(["check", str(spec), "--limit", "20"])
    checked.data = spec
    return check(checked)


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
    lines = (
        Path(text).read_text("utf-8-sig").splitlines() if Path(text).is_file() else text.split(",")
    )
    return [line.strip() for line in lines if line.strip()]


def argument_parser():
    """The parser of all subcommands; each shows the examples of the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="mrcnn dataset",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sub = _add(commands, check, "report every problem; exit status 1 if one would stop training")
    add_check_arguments(sub)
    _add_stats_arguments(_add(commands, stats, "instances per class, sizes, crowding"))
    add_draw_arguments(_add(commands, draw, "images with their annotations drawn on them"))
    add_split_arguments(_add(commands, split, "train, val and test json; groups stay together"))
    add_tile_arguments(_add(commands, tile, "cut large images into tiles, masks included"))

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
