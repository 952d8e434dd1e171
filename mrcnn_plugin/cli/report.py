"""Build the report of a run from its files again, or compare runs, without the model.

Examples:
    mrcnn report output/a                          writes output/a/report.html
    mrcnn report output/a output/b                 writes output/a/comparison.html
    mrcnn report output/a --evaluate               computes APs and curves from the predictions
    mrcnn report output/a --image output/a.png     also draws images and curves into a PNG

RUN is the OUTPUT_DIR of a run, with config.yaml, metrics.json and inference/. Datasets are located
as in training (DETECTRON2_DATASETS). A dataset that is not available is skipped, so its images are
missing in the report.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data import register_datasets
from ..engine import load_config, start_logging
from ..errors import RunError
from ..evaluation import (
    build_comparison,
    build_report,
    draw_run,
    has_analysis,
    rebuild_analysis,
)

logger = logging.getLogger(__name__)


def argument_parser() -> argparse.ArgumentParser:
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="OUTPUT_DIR of a run")
    parser.add_argument(
        "-o",
        "--output",
        metavar="HTML",
        help="the file of a comparison; default: comparison.html in the first RUN",
    )
    parser.add_argument(
        "--evaluate", action="store_true", help="evaluate the saved predictions again"
    )
    parser.add_argument(
        "--image", metavar="PNG", help="draw images and curves of a single RUN into this file"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = argument_parser().parse_args(argv)
    if args.image and len(args.runs) > 1:
        raise RunError(f"--image draws a single run, but {len(args.runs)} runs are given.")
    if args.output and len(args.runs) == 1:
        raise RunError("--output names the file of a comparison, but a single run is given.")
    start_logging(None)
    cfgs = [load_run(folder) for folder in args.runs]
    for cfg in cfgs:
        if (args.evaluate or not has_analysis(cfg)) and {*cfg.DATASETS.TEST} <= {*DatasetCatalog}:
            rebuild_analysis(cfg)
    if len(cfgs) > 1:
        print(build_comparison(cfgs, args.output or Path(args.runs[0], "comparison.html")))
        return
    if args.image:
        print(draw_run(cfgs[0], args.image))
        print(f"ground truth, predictions and curves: {args.image}")
    print(f"report: {build_report(cfgs[0])}")


def load_run(folder: str) -> CfgNode:
    """Load the config of a run, which may have been moved, and register its datasets.

    Datasets whose annotations do not exist on this machine are not registered.

    Raises:
        RunError: there is no config, or it cannot be read.
    """
    file = Path(folder, "config.yaml")
    if not file.exists():
        raise RunError(f"{folder} has no config.yaml. Pass the OUTPUT_DIR of a run.")
    cfg = load_config(str(file))
    cfg.OUTPUT_DIR = folder
    try:
        register_datasets(cfg)
    except (OSError, RunError) as error:
        logger.warning(f"The datasets of {folder} are not available: {error}")
    for name in {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} & {*DatasetCatalog}:
        json_file = MetadataCatalog.get(name).get("json_file")
        if json_file and not Path(json_file).exists():
            logger.warning(f"Dataset '{name}' is not available: {json_file} does not exist")
            DatasetCatalog.remove(name)
    return cfg
