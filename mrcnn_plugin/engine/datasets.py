"""Data sets on the command line of `train_net.py`, and their check before the first iteration."""

import argparse
import logging
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..data import register_datasets
from ..data.coco_file import DataError
from ..data.findings import Severity, count_severities, format_problems
from ..data.follow import declare_datasets, follow_data
from ..data.run_check import check_datasets
from .preflight import PreflightError

logger = logging.getLogger(__name__)

_LINES = 10  # of each kind of problem on the screen; all are in the file


def add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--train --val --val-fraction --drop-bad --no-check` to detectron2's parser."""
    group = parser.add_argument_group("data sets (docs/custom_data.md)")
    what = (
        "NAME=JSON:IMAGES, a COCO json and the directory of its images, or the name of a "
        "registered data set; give the flag again for several"
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
        help="hold out this part of the training images for validation; the same images every "
        "time (DATASETS.VAL_SEED)",
    )
    group.add_argument(
        "--drop-bad",
        action="store_true",
        help="leave out annotations and images that the check finds unusable, instead of stopping",
    )
    group.add_argument("--no-check", action="store_true", help="do not check the data at start")


def use_datasets(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Bring `--train`, `--val` and so on into a config, and what follows from the data.

    Args:
        cfg: not yet frozen, `args.opts` merged; what these set is not changed.
        args: of a parser with `add_dataset_arguments`.

    Raises:
        PreflightError: a data set is declared wrongly or cannot be used at all.
    """
    given = set(args.opts[0::2])
    options = cfg.DATASETS
    options.DROP_BAD = options.DROP_BAD or args.drop_bad
    options.CHECK = options.CHECK and not args.no_check
    try:
        declare_datasets(
            cfg, train=args.train, val=args.val, val_fraction=args.val_fraction, given=given
        )
        follow_data(cfg, given=given | ({"DATASETS.TEST"} if args.val else set()))
        register_datasets(cfg)
    except DataError as error:
        raise PreflightError(str(error)) from error
    if not cfg.DATASETS.TEST:
        logger.warning("there are no validation data: nothing will be evaluated (--val-fraction)")


def check_data(cfg: CfgNode, *, training: bool) -> None:
    """Check the data sets of a config, log what was found and write it to `OUTPUT_DIR`.

    Args:
        cfg: a full config whose data sets are registered; `DATASETS.CHECK` False skips it.
        training: True checks `DATASETS.TRAIN` too, False only `DATASETS.TEST`.

    Raises:
        PreflightError: with every problem that is neither mended nor left out.
    """
    if not cfg.DATASETS.CHECK:
        logger.info("the data are not checked (DATASETS.CHECK False)")
        return
    try:
        problems = check_datasets(cfg, training=training)
    except DataError as error:
        raise PreflightError(str(error)) from error
    for name, of_dataset in problems.items():
        counts = count_severities(of_dataset)
        said = ", ".join(f"{counts[s]} {s.value}" for s in Severity if counts[s]) or "no problem"
        shown = [p for p in of_dataset if p.severity is not Severity.ERROR]
        text = "\n" + format_problems(shown, limit=_LINES) if shown else ""
        logger.log(logging.WARNING if shown else logging.INFO, f"checked '{name}': {said}{text}")
    everything = [problem for of_dataset in problems.values() for problem in of_dataset]
    file = _write(everything, cfg.OUTPUT_DIR)
    errors = [p for p in everything if p.severity is Severity.ERROR]
    # One for all: a process alone that stopped would leave the others waiting for it.
    errors = list(dict.fromkeys(p for of_rank in comm.all_gather(errors) for p in of_rank))
    if errors:
        raise PreflightError(
            f"the data have {len(errors)} errors (all problems: {file}). Mend them, or leave out "
            "what cannot be used with --drop-bad (data of --train and --val, not of registered "
            "names); --no-check trains all the same\n" + format_problems(errors, limit=_LINES)
        )


def _write(problems: list, output_dir: str) -> Path:
    path = Path(output_dir, "data_problems.txt")
    if comm.is_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(format_problems(problems) + "\n")
    return path
