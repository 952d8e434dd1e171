"""Rebuild the report of a run from what it left, or compare runs. Needs no model and no network.

examples:
  mrcnn report RUN                writes RUN/report.html
  mrcnn report RUN --evaluate     first computes APs and curves from the saved predictions again
  mrcnn report RUN1 RUN2 RUN3     writes RUN1/comparison.html, with differences from RUN1

RUN is an OUTPUT_DIR with config.yaml, metrics.json and inference/. Datasets are found as in
training (DETECTRON2_DATASETS). Without them the page has no images.
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
from ..evaluation import build_comparison, build_report, has_analysis, rebuild_analysis

logger = logging.getLogger(__name__)


def load_run(folder: str) -> CfgNode:
    """The config of a run, which may have been moved since.

    Raises:
        RunError: the folder has no config.yaml, or one that cannot be read.
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
            logger.warning(f"The dataset '{name}' is skipped, because {json_file} does not exist")
            DatasetCatalog.remove(name)
    return cfg


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="OUTPUT_DIR of a run")
    parser.add_argument(
        "-o", "--output", help="the page that compares runs (default: RUN1/comparison.html)"
    )
    parser.add_argument(
        "--evaluate", action="store_true", help="evaluate the saved predictions again"
    )
    args = parser.parse_args(argv)

    start_logging(None)
    cfgs = [load_run(folder) for folder in args.runs]
    for cfg in cfgs:
        if (args.evaluate or not has_analysis(cfg)) and {*cfg.DATASETS.TEST} <= {*DatasetCatalog}:
            rebuild_analysis(cfg)
    if len(cfgs) == 1:
        print(build_report(cfgs[0]))
    else:
        print(build_comparison(cfgs, args.output or Path(args.runs[0], "comparison.html")))
