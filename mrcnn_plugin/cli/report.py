"""Build the report of a run from its files again, or compare runs, without the model.

Examples:
    mrcnn report output/a                          writes output/a/report.html
    mrcnn report output/a output/b                 writes output/a/comparison.html
    mrcnn report output/a --evaluate               computes APs and curves from the predictions
    mrcnn report output/a --image output/a.png     also draws images and curves into a PNG

RUN is the OUTPUT_DIR of a run, with config.yaml, metrics.json and inference/. Datasets are located
as in training (DETECTRON2_DATASETS). A dataset that is not available is skipped, so its images are
missing in the report. RUN may be of somebody else: nothing in it is executed, and no file outside
it is read but images in the image folders that its config names.
"""

import argparse
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data import Findings, read_coco_json, register_datasets
from ..data.annotations import check_annotations
from ..data.findings import Severity
from ..engine import load_config, start_logging
from ..errors import RunError
from ..evaluation import (
    build_comparison,
    build_report,
    draw_run,
    has_analysis,
    rebuild_analysis,
)
from ..evaluation.report.run_folder import check_dataset_names, check_run_folder

logger = logging.getLogger(__name__)

_MAX_SIDE = 20_000  # pixels of an image
# Faults of masks with which pycocotools reads or allocates memory as the file wants.
_UNSAFE = ("rle-form", "rle-size", "rle-counts", "far-polygon")
# What reading numbers of the wrong kind or shape raises.
_DAMAGE = (
    *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
    RecursionError,
)


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
    try:
        _report([load_run(folder) for folder in args.runs], args)
    except _DAMAGE as error:
        raise RunError(
            f"A file of {' or '.join(args.runs)} is not one that a run writes "
            f"({type(error).__name__}: {str(error)[:200]}). Delete analysis.json to compute it "
            "again from the predictions, or evaluate the run again"
        ) from error


def _report(cfgs: list[CfgNode], args: argparse.Namespace) -> None:
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
    files = [Path(args.runs[0], name) for name in ("model_best.pth", "model_final.pth")]
    model = next((str(file) for file in files if file.exists()), None)
    if model:
        print(f"next: mrcnn predict {shlex.quote(model)} IMAGES --out DIR")


def load_run(folder: str) -> CfgNode:
    """Load the config of a run, which may have been moved, and register its datasets.

    Datasets whose annotations do not exist on this machine, or are damaged, are not registered.

    Raises:
        RunError: there is no config, or it cannot be read, or a file of the run leads out of the
            folder.
    """
    file = Path(folder, "config.yaml")
    check_run_folder(folder)
    if not file.exists():
        raise RunError(f"{folder} has no config.yaml. Pass the OUTPUT_DIR of a run.")
    cfg = load_config(str(file), follow_bases=False)
    check_dataset_names(cfg, file)
    cfg.OUTPUT_DIR = folder
    try:
        register_datasets(cfg)
    except (OSError, RunError) as error:
        logger.warning(f"The datasets of {folder} are not available: {error}")
    for name in {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} & {*DatasetCatalog}:
        json_file = MetadataCatalog.get(name).get("json_file")
        problem = _problem(name, json_file, cfg) if json_file else None
        if problem:
            logger.warning(f"Dataset '{name}' is not available: {problem}")
            DatasetCatalog.remove(name)
    return cfg


def _problem(name: str, json_file: str, cfg: CfgNode) -> str | None:
    """Why a dataset cannot be used; None if it can.

    The json of a dataset on files is in the folder of the run, so it is checked like one that is
    trained on, without its images, which need not exist here.
    """
    if not Path(json_file).exists():
        return f"{json_file} does not exist"
    if not MetadataCatalog.get(name).get("prepared_from"):
        return None
    try:
        content = read_coco_json(json_file)
    except RunError as error:
        return str(error)
    findings = Findings(json_file, as_is=True)
    for image in content["images"]:
        sides = image.get("height"), image.get("width")
        if not all(type(side) is int and 0 < side <= _MAX_SIDE for side in sides):
            return f"image {image['id']} of {json_file} has the size {sides} (height, width)"
    check_annotations(content, findings, masks=cfg.MODEL.MASK_ON)
    errors = [p for p in findings.problems if p.severity is Severity.ERROR or p.kind in _UNSAFE]
    return str(errors[0]) if errors else None
