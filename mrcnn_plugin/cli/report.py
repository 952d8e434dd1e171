#!/usr/bin/env python3
"""Make the report of a run again from what it left, or compare runs. No model, no network.

mrcnn report RUN                           RUN/report.html
mrcnn report RUN RUN [RUN ...]             comparison.html, differences from the first
mrcnn report RUN --evaluate                computes APs and curves from predictions again

RUN is an OUTPUT_DIR: config.yaml, metrics.json, inference/. The data sets are looked for as in
training (DETECTRON2_DATASETS); without them the page has no pictures and no data statistics.
"""

import argparse
import sys
from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from mrcnn_plugin import add_mrcnn_config
from mrcnn_plugin.data import register_datasets
from mrcnn_plugin.engine import start_logging
from mrcnn_plugin.errors import RunError
from mrcnn_plugin.evaluation import (
    build_comparison,
    build_report,
    has_analysis,
    rebuild_analysis,
)


def load_run(folder: str) -> CfgNode:
    """The config of a run, which may have been moved since."""
    file = Path(folder, "config.yaml")
    if not file.exists():
        sys.exit(f"report.py: {folder} has no config.yaml: give the OUTPUT_DIR of a run")
    cfg = get_cfg()
    add_mrcnn_config(cfg)
    cfg.merge_from_file(str(file))
    cfg.OUTPUT_DIR = folder
    try:
        register_datasets(cfg)
    except (OSError, RunError) as error:
        print(f"report.py: the data is not here: {error}", file=sys.stderr)
    for name in {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} & {*DatasetCatalog}:
        json_file = MetadataCatalog.get(name).get("json_file")
        if json_file and not Path(json_file).exists():
            print(f"report.py: {json_file} of data set '{name}' is not here", file=sys.stderr)
            DatasetCatalog.remove(name)
    return cfg


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="OUTPUT_DIR of a run")
    parser.add_argument("-o", "--output", help="the page that compares runs (comparison.html)")
    parser.add_argument(
        "--evaluate",
        action="store_true",
        help="evaluate the predictions again",
    )
    args = parser.parse_args()

    start_logging(None)
    cfgs = [load_run(folder) for folder in args.runs]
    for cfg in cfgs:
        if (args.evaluate or not has_analysis(cfg)) and {*cfg.DATASETS.TEST} <= {*DatasetCatalog}:
            rebuild_analysis(cfg)
    if len(cfgs) == 1:
        print(build_report(cfgs[0]))
    else:
        print(build_comparison(cfgs, args.output or "comparison.html"))


if __name__ == "__main__":
    main()
