#!/usr/bin/env python3
"""Draw what a run has learned: held-out images with truth and prediction, above its curves.

example:
  python tools/draw_demo.py output/shapes --output docs/figures/demo.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.engine import DefaultPredictor

from mrcnn_plugin.cli.report import load_run
from mrcnn_plugin.engine import start_logging
from mrcnn_plugin.errors import RunError
from mrcnn_plugin.evaluation import draw_comparison, save_run_image
from mrcnn_plugin.evaluation.report.metrics_log import evaluations, read_metrics


def predict_and_draw(cfg, num_images: int) -> list:
    """Pairs of (ground truth, prediction) of the first images of the validation set."""
    weights = Path(cfg.OUTPUT_DIR, "model_final.pth")
    if not weights.exists():
        raise RunError(f"{weights} does not exist. Pass the OUTPUT_DIR of a finished run.")
    cfg.merge_from_list(["MODEL.WEIGHTS", str(weights)])
    predictor = DefaultPredictor(cfg)
    name = cfg.DATASETS.TEST[0]
    metadata = MetadataCatalog.get(name)
    comparisons = []
    for record in DatasetCatalog.get(name)[:num_images]:
        bgr = utils.read_image(record["file_name"], format="BGR")
        instances = predictor(bgr)["instances"].to("cpu")
        scale = 320 / max(record["width"], record["height"])
        comparisons.append(draw_comparison(record, instances, metadata, scale=scale))
    return comparisons


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="OUTPUT_DIR of a finished run")
    parser.add_argument("--output", type=Path, help="the PNG to write (default: RUN/demo.png)")
    parser.add_argument("--num", type=int, default=8, help="how many images")
    args = parser.parse_args(argv)

    start_logging(None)
    cfg = load_run(args.run)
    metrics_file = Path(args.run, "metrics.json")
    found = evaluations(read_metrics(metrics_file))
    if not found:
        raise RunError(f"{metrics_file} has no evaluation. Pass the OUTPUT_DIR of a finished run.")
    iteration, ap = found[-1]
    num_images = len(DatasetCatalog.get(cfg.DATASETS.TEST[0]))
    summary = (
        f"{num_images} held-out images: box AP {ap['bbox/AP']:.1f}, segm AP {ap['segm/AP']:.1f}, "
        f"after {iteration} iterations"
    )
    output = args.output or Path(args.run, "demo.png")
    save_run_image(output, predict_and_draw(cfg, args.num), metrics_file, summary)
    print(f"demo: {summary}")
    print(f"demo: ground truth, predictions and curves: {output.resolve()}")
    print(f"demo: report: {Path(args.run, 'report.html').resolve()}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except RunError as error:
        sys.exit(f"draw_demo.py: {error}")
