"""The datasets of a training: command line flags, inference from the data, check, preparation."""

import argparse
import logging
from pathlib import Path

from detectron2.config import CfgNode

from ..data.coco_file import DataError
from ..data.declare import declare_datasets, declared_datasets, infer_from_files
from ..data.findings import Severity, count_severities, format_problems
from ..data.prepare import PreparedDataset, prepare_datasets, prepared_file, register_datasets
from ..data.processes import require_shared, run_on_main_process

logger = logging.getLogger(__name__)

_LINES = 10  # of each kind of problem on the screen; all are in data_problems.txt


def add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--train --val --val-fraction --drop-bad ...` to detectron2's parser."""
    group = parser.add_argument_group("datasets (docs/custom_data.md)")
    what = (
        "NAME=JSON:IMAGES, a COCO json and the directory of its images, or the name of a "
        "registered dataset; can be repeated"
    )
    group.add_argument(
        "--train", action="append", default=[], metavar="DATA", help=f"train on {what}"
    )
    group.add_argument(
        "--val", action="append", default=[], metavar="DATA", help=f"evaluate on {what}"
    )
    group.add_argument(
        "--val-fraction",
        type=float,
        metavar="F",
        help="hold out this fraction of the training images for validation; the choice depends on "
        "the file names and DATASETS.VAL_SEED only",
    )
    group.add_argument(
        "--drop-bad",
        action="store_true",
        help="skip annotations and images that the check finds unusable, instead of stopping",
    )
    group.add_argument(
        "--crowds-as-objects",
        action="store_true",
        help="train on annotations with iscrowd 1 as on any other (DATASETS.CROWDS_AS_OBJECTS)",
    )
    group.add_argument("--no-check", action="store_true", help="do not check the data at start")


def use_datasets(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Apply `--train`, `--val` and so on to a config, infer what the data imply, and register.

    Args:
        cfg: not yet frozen, `args.opts` merged; keys that these set are not changed.
        args: of a parser with `add_dataset_arguments`.

    Raises:
        DataError: a dataset is declared wrongly or cannot be read.
    """
    given = set(args.opts[0::2])
    options = cfg.DATASETS
    options.DROP_BAD = options.DROP_BAD or args.drop_bad
    options.CROWDS_AS_OBJECTS = options.CROWDS_AS_OBJECTS or args.crowds_as_objects
    options.CHECK = options.CHECK and not args.no_check
    declare_datasets(
        cfg, train=args.train, val=args.val, val_fraction=args.val_fraction, given=given
    )
    infer_from_files(cfg, given=given | ({"DATASETS.TEST"} if args.val else set()))
    register_datasets(cfg)
    if not cfg.DATASETS.TEST:
        logger.warning(
            "DATASETS.TEST is empty, so nothing will be evaluated. Pass --val or --val-fraction"
        )


def check_data(cfg: CfgNode, *, training: bool) -> None:
    """Check the datasets of a config and write those of `DATASETS.FILES` to `OUTPUT_DIR/datasets`.

    The main process does the work. It logs one line per dataset and writes all problems to
    `OUTPUT_DIR/data_problems.txt`.

    Args:
        cfg: a full config after `use_datasets`. `DATASETS.CHECK` False skips the check.
        training: True includes `DATASETS.TRAIN`, False means only `DATASETS.TEST`.

    Raises:
        DataError: on every process, with the problems that are neither repaired nor dropped.
    """
    train = cfg.DATASETS.TRAIN if training else ()
    run_on_main_process(lambda: _prepare(cfg, train))
    written = declared_datasets(cfg).keys() & {*train, *cfg.DATASETS.TEST}
    require_shared(prepared_file(cfg, name) for name in written)


def _prepare(cfg: CfgNode, train: tuple[str, ...]) -> None:
    if not cfg.DATASETS.CHECK:
        logger.info("The data are not checked because DATASETS.CHECK is False")
    datasets = prepare_datasets(cfg, train=train, test=cfg.DATASETS.TEST)
    problems = [p for dataset in datasets for p in dataset.findings.problems]
    errors = list(dict.fromkeys(p for dataset in datasets for p in dataset.errors))
    for dataset in datasets:
        is_written = dataset.declared and not errors
        _log(dataset, prepared_file(cfg, dataset.name) if is_written else None)
    file = Path(cfg.OUTPUT_DIR, "data_problems.txt")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(format_problems(problems) + "\n")
    if errors:
        raise DataError(
            f"the data have {len(errors)} errors (all problems: {file}). Fix them, pass --drop-bad "
            "to skip the unusable entries (only for data given with --train or --val), or pass "
            "--no-check to train anyway\n" + format_problems(errors, limit=_LINES)
        )
    _check_not_empty(datasets, cfg, train)


def _check_not_empty(datasets: list[PreparedDataset], cfg: CfgNode, train: tuple[str, ...]) -> None:
    """Raise a `DataError` if nothing of the training sets would be trained on."""
    trained = [dataset for dataset in datasets if dataset.name in train]
    if not train or len(trained) < len(train):  # the others are not COCO json
        return
    annotations = [a for dataset in trained for a in dataset.content["annotations"]]
    images = [image for dataset in trained for image in dataset.content["images"]]
    if not images or (
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and all(a.get("iscrowd", 0) for a in annotations)
    ):
        raise DataError(
            f"There is nothing to train on in {', '.join(train)}: {len(images)} images have "
            f"{len(annotations)} usable annotations, all of them crowd regions if any (pass "
            "--crowds-as-objects if these are objects). `mrcnn dataset check` lists what was "
            "dropped."
        )


def _log(dataset: PreparedDataset, written: Path | None) -> None:
    """One line for a dataset without problems, and the problems that a user may act on."""
    problems = dataset.findings.problems
    counts = count_severities(p for p in problems if not p.is_minor)
    found = ", ".join(f"{counts[s]} {s.value}" for s in Severity if counts[s]) or "no problem"
    where = f", written to {written}" if written else ""
    shown = [p for p in problems if p.severity is not Severity.ERROR and not p.is_minor]
    annotations = dataset.content["annotations"]
    crowds = sum(bool(annotation.get("iscrowd")) for annotation in annotations)
    regions = f" and {crowds} crowd regions" if crowds else ""
    text = "\n" + format_problems(shown, limit=_LINES) if shown else ""
    logger.log(
        logging.WARNING if shown else logging.INFO,
        f"checked '{dataset.name}': {len(dataset.content['images'])} images, "
        f"{len(annotations) - crowds} annotations{regions}, {found}{where}{text}",
    )
    for problem in problems:
        if problem.is_minor:
            logger.debug(str(problem))
