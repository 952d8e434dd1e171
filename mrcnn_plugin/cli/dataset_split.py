"""`mrcnn dataset split`: train, val and test json files, with groups of images on one side."""

import argparse
import os
import shlex
from collections import Counter
from pathlib import Path

from ..data.coco_file import DataError, read_coco_json, sorted_class_names, write_json
from ..data.findings import Findings
from ..data.places import use_posix_names
from ..data.spec import DatasetSpec
from ..data.split import (
    PARTS,
    Similar,
    assign,
    check_fractions,
    closest_seed,
    image_paths,
    join_similar,
    name_groups,
    object_counts,
    split_content,
)
from ..data.text import abbreviate

_LINES = 10  # pairs of similar images that are printed


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `mrcnn dataset split`."""
    parser.add_argument("data", metavar="JSON:IMAGES", help="COCO json and directory of the images")
    parser.add_argument("--out", type=Path, required=True, help="directory of the json files")
    parser.add_argument(
        "--fractions",
        type=float,
        nargs="+",
        default=[0.7, 0.15, 0.15],
        metavar="F",
        help="of train, val and, if there are three, test; default 0.7 0.15 0.15",
    )
    parser.add_argument(
        "--group-by",
        metavar="REGEX",
        help="images whose names have the same text in the first parentheses stay together",
    )
    parser.add_argument(
        "--seed",
        type=int,
        help="the same seed keeps images in their parts when others are added; default: the one of "
        "100 whose parts are closest to the fractions, in images and in objects per class",
    )
    parser.add_argument(
        "--no-similar", action="store_true", help="do not read the images to find near duplicates"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace json files in --out")


def split(args: argparse.Namespace) -> int:
    """Write one json per part, and print what is in them and the command that trains."""
    check_fractions(args.fractions)
    files = [args.out / f"{part}.json" for part in PARTS[: len(args.fractions)]]
    _check_output(args, files)
    content = read_coco_json(args.data.json_file)
    use_posix_names(content, args.data.image_root, Findings(args.data.json_file))
    groups = name_groups([image["file_name"] for image in content["images"]], args.group_by)
    if not args.no_similar:
        groups, similar = join_similar(groups, image_paths(content, args.data.image_root))
        if len(similar.unreadable) == len(set(image_paths(content, args.data.image_root))) > 0:
            raise DataError(
                f"no image can be read, such as {similar.unreadable[0]}. Pass the directory of the "
                "images as JSON:IMAGES, or --no-similar to split without the images"
            )
        _print_similar(similar)
    seed, note = args.seed, ""
    if seed is None:
        seed, tried = closest_seed(groups, object_counts(content), args.fractions)
        note = (
            f"\nof {tried} seeds, {seed} is closest to the fractions; with --seed {seed}, these "
            "images keep their parts when you add others"
        )
    part_of = assign(groups, args.fractions, seed)
    parts = [part_of[group] for group in groups]
    contents = split_content(content, parts, len(files))
    # Old files are removed first, so that what an interruption leaves is never of two splits.
    for file in args.out.glob("*.json") if args.overwrite else ():
        if file.stem in PARTS:
            file.unlink()
    for file, part in zip(files, contents):
        write_json(part, file)
    print(_table(contents, Counter(part_of.values()), sorted_class_names(content)) + note)
    print(_next_commands(files, args.data.image_root))
    return 0


def _check_output(args: argparse.Namespace, files: list[Path]) -> None:
    there = [file for file in files if file.exists()]
    if any(os.path.samefile(file, args.data.json_file) for file in there):
        raise DataError(
            f"{args.data.json_file} would be overwritten. Choose another directory with --out"
        )
    if there and not args.overwrite:
        raise DataError(
            f"{there[0]} exists already. Choose another directory with --out, or pass --overwrite "
            "to replace it"
        )


def _print_similar(similar: Similar) -> None:
    if similar.pairs:
        print(f"{len(similar.pairs)} near duplicates stay together:")
        for left, right, bits in similar.pairs[:_LINES]:
            print(f"    {left} and {right} ({bits} bits differ)")
        if len(similar.pairs) > _LINES:
            print(f"    ... and {len(similar.pairs) - _LINES} more")
    if similar.unreadable:
        print(
            f"{len(similar.unreadable)} images, such as {similar.unreadable[0]}, cannot be read "
            "and were not compared; `mrcnn dataset check --full` lists them"
        )


def _table(contents: list[dict], groups: Counter, class_names: list[str]) -> str:
    """Images, groups and objects per class (no crowd regions) of each part."""
    objects = []
    for content in contents:
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        known = [a for a in content["annotations"] if a["category_id"] in names]
        objects.append(Counter(names[a["category_id"]] for a in known if not a.get("iscrowd")))
    rows = {
        "": PARTS[: len(contents)],
        "images": [len(content["images"]) for content in contents],
        "groups": [groups[part] for part in range(len(contents))],
        "objects": [sum(counts.values()) for counts in objects],
    }
    used = set().union(*objects)
    rows |= {f"  {n}": [counts[n] for counts in objects] for n in class_names if n in used}
    width = max(map(len, rows))
    lines = [f"{name:{width}}" + "".join(f"{v:>9}" for v in row) for name, row in rows.items()]
    for part, counts in zip(PARTS, objects):
        missing = [name for name in class_names if name in used and not counts[name]]
        if missing:
            lines.append(f"{part} has no object of {abbreviate(missing, 10)}")
    return "\n".join(lines)


def _next_commands(files: list[Path], image_root: str) -> str:
    specs = [str(DatasetSpec(file.stem, str(file), image_root)) for file in files]
    train = ["mrcnn", "train", "--config-file", "mask_rcnn_R101_C4_finetune.yaml"]
    train += ["--train", specs[0], "--val", specs[1], "--epochs", "20"]
    text = f"next: {shlex.join(train)}"
    if len(files) > 2:
        evaluate = ["mrcnn", "train", "--config-file", "RUN/model_best.pth", "--eval-only"]
        text += f"\nat the end, once: {shlex.join([*evaluate, '--val', specs[2]])}"
    return text
