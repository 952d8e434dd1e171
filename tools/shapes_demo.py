#!/usr/bin/env python3
"""`make demo`: train a small Mask R-CNN C4 on drawn shapes, evaluate it and draw what it sees.

    python tools/shapes_demo.py [KEY VALUE ...]        overrides of configs/mask_rcnn_shapes_C4.yaml

Everything goes through the same trainer, evaluator and config keys as `train_net.py`.
"""

import argparse
import os
import time
from pathlib import Path

# Before torch is imported: GNU OpenMP's threads wait by spinning, by default for so long that two
# trainings on the same cores slow each other down fivefold. This long costs one alone nothing.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from mrcnn_plugin import add_mrcnn_config
from mrcnn_plugin.data import register_datasets
from mrcnn_plugin.engine import MRCNNTrainer, PreflightError, merge_config, start_logging
from mrcnn_plugin.evaluation import draw_comparison, save_run_picture

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/mask_rcnn_shapes_C4.yaml"
NUM_DRAWN = 8


class DemoTrainer(MRCNNTrainer):
    """Builds the model without printing its two hundred layers."""

    @classmethod
    def build_model(cls, cfg):
        return build_model(cfg)


def setup():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help=f"of {CONFIG.relative_to(ROOT)}"
    )
    overrides = parser.parse_args().overrides
    cfg = get_cfg()
    add_mrcnn_config(cfg)
    cfg.merge_from_file(str(CONFIG))
    try:
        merge_config(cfg, opts=overrides)
    except PreflightError as error:
        parser.error(str(error))
    cfg.freeze()
    start_logging(cfg.OUTPUT_DIR)
    setup_logger(cfg.OUTPUT_DIR)
    seed_all_rng(cfg.SEED)
    return cfg


def predict_and_draw(cfg, path, title):
    """Draw the first held-out pictures beside the truth, predicted with the trained weights."""
    cfg = cfg.clone()
    cfg.merge_from_list(["MODEL.WEIGHTS", str(Path(cfg.OUTPUT_DIR, "model_final.pth"))])
    predictor = DefaultPredictor(cfg)
    (name,) = cfg.DATASETS.TEST
    comparisons = []
    for picture in DatasetCatalog.get(name)[:NUM_DRAWN]:
        bgr = utils.read_image(picture["file_name"], format="BGR")
        instances = predictor(bgr)["instances"].to("cpu")
        metadata = MetadataCatalog.get(name)
        comparisons.append(draw_comparison(picture, instances, metadata, scale=2.5))
    save_run_picture(path, comparisons, Path(cfg.OUTPUT_DIR, "metrics.json"), title)


def main():
    started = time.time()
    cfg = setup()
    output = Path(cfg.OUTPUT_DIR)
    (output / "metrics.json").unlink(missing_ok=True)  # JSONWriter appends
    (output / "config.yaml").write_text(cfg.dump())
    register_datasets(cfg)
    num_train, num_held_out = (len(DatasetCatalog.get(n)) for n in ("shapes_train", "shapes_val"))

    trainer = DemoTrainer(cfg)
    trainer.resume_or_load(resume=False)
    parameters = sum(p.numel() for p in trainer.model.parameters()) / 1e6
    print(
        f"demo: {num_train} drawn pictures to train on, {num_held_out} held out; a model of "
        f"{parameters:.1f} M parameters, {cfg.SOLVER.MAX_ITER} iterations on {cfg.MODEL.DEVICE} "
        f"with {torch.get_num_threads()} threads",
        flush=True,
    )
    trainer.train()

    ap = {task: trainer._last_eval_results[task]["AP"] for task in ("bbox", "segm")}
    minutes = (time.time() - started) / 60
    summary = (
        f"{num_held_out} held-out pictures: box AP {ap['bbox']:.1f}, segm AP {ap['segm']:.1f}, "
        f"after {cfg.SOLVER.MAX_ITER} iterations, {minutes:.1f} minutes"
    )
    picture = output / "demo.png"
    predict_and_draw(cfg, picture, summary)
    print(f"demo: {summary}\ndemo: ground truth, predictions and curves: {picture.resolve()}")
    print(f"demo: report: {(output / 'report.html').resolve()}")


if __name__ == "__main__":
    main()
