"""`mrcnn train`, which is also `train_net.py`: trains, resumes and evaluates.

Examples:
    mrcnn train --config-file mask_rcnn_R101_C4.yaml --num-gpus 8
    mrcnn train --config-file mask_rcnn_R101_C4.yaml --num-gpus 8 --resume
    mrcnn train --config-file mask_rcnn_R101_C4.yaml --eval-only MODEL.WEIGHTS model.pth
    mrcnn train --config-file mask_rcnn_R101_C4.yaml --train my=my.json:images --val-fraction 0.1
    mrcnn train --config-file mask_rcnn_R101_C4_finetune.yaml --train my=my.json:images \
        --val-fraction 0.2 --epochs 20

--config-file is a path or the name of a config that is installed with the package.
"""

import argparse
import logging
import shlex
from collections.abc import Sequence

from detectron2.engine import default_argument_parser
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from ..checkpoint.class_rows import known_names
from ..checkpoint.model_file import class_names
from ..engine import (
    MRCNNTrainer,
    ReportingCheckpointer,
    add_dataset_arguments,
    write_report,
)
from ..engine.launch import launch
from ..engine.resume import is_finished
from ..engine.setup import setup

logger = logging.getLogger(__name__)


def argument_parser() -> argparse.ArgumentParser:
    """detectron2's options, those of the datasets, `--auto-scale-lr` and `--epochs`."""
    parser = default_argument_parser(epilog=__doc__)
    add_dataset_arguments(parser)
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale SOLVER.BASE_LR to SOLVER.IMS_PER_BATCH by the ratio in the config file",
    )
    parser.add_argument(
        "--epochs",
        type=float,
        metavar="N",
        help="train for N passes over the images: sets SOLVER.MAX_ITER, STEPS, WARMUP_ITERS, "
        "CHECKPOINT_PERIOD and TEST.EVAL_PERIOD, except those given as KEY VALUE",
    )
    return parser


def train(args: argparse.Namespace) -> dict:
    """Train, or evaluate with `--eval-only`, in this process of the job; returns the results."""
    cfg = setup(args)
    if args.resume and not args.eval_only and is_finished(cfg):
        logger.warning(
            f"The run in {cfg.OUTPUT_DIR} is finished: it has stopped early or reached "
            f"SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER}. Nothing is trained or evaluated. Raise "
            "SOLVER.MAX_ITER to train longer, or pass --eval-only to evaluate."
        )
        return {}
    if not args.eval_only:
        trainer = MRCNNTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train()
        logger.info(f"next: mrcnn report {shlex.quote(cfg.OUTPUT_DIR)}")
        return results

    model = MRCNNTrainer.build_model(cfg)
    checkpointer = ReportingCheckpointer(model, cfg.OUTPUT_DIR)
    checkpointer.class_names = known_names(class_names(cfg))
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    results = MRCNNTrainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(MRCNNTrainer.test_with_tta(cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)
    if cfg.TEST.REPORT:
        write_report(cfg)
    return results


def main(argv: Sequence[str] | None = None) -> None:
    args = argument_parser().parse_args(argv)
    launch(train, args)
