"""`mrcnn dataset check`: every problem of one dataset, or of a training and a validation set."""

import argparse
import shlex
from pathlib import Path

from ..data.annotations import take_crowds_as_objects
from ..data.check import (
    check_content,
    check_num_classes,
    check_trainable,
    check_unseen_classes,
)
from ..data.coco_file import DataError, read_coco_json, sorted_class_names, write_json
from ..data.findings import Findings, Severity, count_severities, format_problems
from ..data.overlap import check_near_duplicates, check_overlap, check_separable
from ..data.spec import DatasetSpec


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the dataset and the options that say how it is read."""
    parser.add_argument("data", metavar="JSON:IMAGES", help="COCO json and directory of the images")
    parser.add_argument("--boxes-only", action="store_true", help="do not expect masks")
    add_crowds_argument(parser)


def add_crowds_argument(parser: argparse.ArgumentParser) -> None:
    """Add --crowds-as-objects."""
    parser.add_argument(
        "--crowds-as-objects",
        action="store_true",
        help="take annotations with iscrowd 1 as any other",
    )


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `mrcnn dataset check`."""
    add_data_arguments(parser)
    parser.add_argument("--val", metavar="JSON:IMAGES", help="check this dataset with the first")
    parser.add_argument("--num-classes", type=int, help="MODEL.ROI_HEADS.NUM_CLASSES")
    parser.add_argument(
        "--full",
        action="store_true",
        help="decode every image (slower), and find images that look the same",
    )
    parser.add_argument("--drop-bad", action="store_true", help="skip unusable entries")
    parser.add_argument(
        "--boxes-from-masks",
        action="store_true",
        help="replace boxes that contradict their masks, in the json of --write",
    )
    parser.add_argument("--write", type=Path, metavar="JSON", help="write the repaired json")
    parser.add_argument("--limit", type=int, default=0, help="lines per kind of problem; 0 for all")


def read_checked(
    spec: DatasetSpec, args: argparse.Namespace, *, drop_bad: bool, **options
) -> tuple[dict, Findings]:
    """(content as it would be trained on, findings) of a dataset.

    Args:
        spec: of the dataset.
        args: with those of `add_data_arguments`.
        drop_bad: skip unusable entries.
        options: of `check_content`.

    Raises:
        DataError: the json cannot be read.
    """
    findings = Findings(spec.json_file, drop_bad=drop_bad)
    content = read_coco_json(spec.json_file)
    if args.crowds_as_objects:
        take_crowds_as_objects(content, findings)
    options["masks"] = not args.boxes_only
    return check_content(content, findings, spec.image_root, **options), findings


def check(args: argparse.Namespace) -> int | str:
    """Print every problem of both datasets.

    Returns:
        1 if one of the problems would stop training, the message if a json cannot be read, or 0.

    Raises:
        DataError: options contradict each other.
    """
    if args.boxes_from_masks and (args.boxes_only or not args.write):
        raise DataError(
            "--boxes-from-masks needs masks and changes only the json of --write. Pass --write "
            "NEW_JSON, and do not pass --boxes-only"
        )
    thumbnails: dict = {}
    checked, unreadable = _read_all(args, thumbnails)
    if checked and checked[0][0] is args.data:
        _check_train(*checked[0], args, thumbnails)
    if len(checked) == 2:
        _check_both(*checked, thumbnails)
    errors = _print_findings(checked, args.limit)
    if unreadable:
        return "\n".join(unreadable)
    if args.val and not args.full:
        print("images that only look the same were not searched for; --full finds them")
    if args.write:
        write_json(checked[0][1], args.write)
    if not errors:
        print(f"next: {train_command(args.data, args)}")
    return int(errors > 0)


def _read_all(args: argparse.Namespace, thumbnails: dict) -> tuple[list[tuple], list[str]]:
    """(spec, content, findings) of each dataset that can be read, and messages about the others."""
    checked, unreadable, class_names = [], [], None
    for spec in (args.data, args.val) if args.val else (args.data,):
        try:
            content, findings = read_checked(
                spec,
                args,
                drop_bad=args.drop_bad,
                class_names=class_names,
                full=args.full,
                rebuild_boxes=args.boxes_from_masks,
                thumbnails=thumbnails,
            )
        except DataError as error:
            unreadable.append(f"mrcnn dataset: {error}")
            continue
        checked.append((spec, content, findings))
        class_names = class_names or sorted_class_names(content)
    return checked, unreadable


def _check_train(
    spec: DatasetSpec,
    content: dict,
    findings: Findings,
    args: argparse.Namespace,
    thumbnails: dict,
) -> None:
    """Add what prevents training on a dataset, or makes a random split of it flattering."""
    check_trainable(content, findings)
    if args.num_classes is not None:
        check_num_classes(content, findings, args.num_classes)
    if not args.val:
        check_separable(content, spec.image_root, findings, thumbnails)


def _check_both(train: tuple, val: tuple, thumbnails: dict) -> None:
    """Add what is wrong between a training and a validation set to their findings."""
    (train_spec, train_content, findings), (val_spec, val_content, val_findings) = train, val
    check_unseen_classes([train_content], val_content, val_findings)
    if all(annotation["iscrowd"] for annotation in val_content["annotations"]):
        fault = "has no objects, so there is nothing to evaluate and every AP is undefined"
        val_findings.warning("nothing-to-evaluate", fault, action="annotate some of its images")
    roots = train_content, train_spec.image_root, val_content, val_spec.image_root
    check_overlap(*roots, findings)
    check_near_duplicates(*roots, findings, thumbnails)


def _print_findings(checked: list[tuple], limit: int) -> int:
    """Print the problems, then one line per dataset; returns the number of errors."""
    problems = [problem for *_, findings in checked for problem in findings.problems]
    if problems:
        print(format_problems(problems, limit=limit or None))
    for spec, content, findings in checked:
        counts = count_severities(findings.problems)
        crowds = sum(bool(annotation["iscrowd"]) for annotation in content["annotations"])
        print(
            f"{spec.json_file}: {len(content['images'])} images, "
            f"{len(content['annotations']) - crowds} annotations to train on"
            + (f" and {crowds} crowd regions" if crowds else "")
            + "; "
            + ", ".join(f"{counts[s]} {s.value}" for s in Severity)
        )
    return count_severities(problems)[Severity.ERROR]


def train_command(train: DatasetSpec, args: argparse.Namespace) -> str:
    """A command that trains on what was checked, with the options of the check."""
    data = args.write if args.boxes_from_masks else train.json_file
    command = ["mrcnn", "train", "--config-file", "mask_rcnn_R101_C4_finetune.yaml"]
    command += ["--train", f"{train.name}={data}:{train.image_root}"]
    command += ["--val", str(args.val)] if args.val else ["--val-fraction", "0.2"]
    command += ["--epochs", "20"]
    command += ["--drop-bad"] if args.drop_bad else []
    command += ["--crowds-as-objects"] if args.crowds_as_objects else []
    command += ["MODEL.MASK_ON", "False"] if args.boxes_only else []
    return shlex.join(command)
