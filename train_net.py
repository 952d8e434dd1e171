#!/usr/bin/env python3
"""Train, resume and evaluate: detectron2's command line with this plugin's components.

train_net.py --config-file configs/mask_rcnn_R101_C4.yaml --num-gpus 8
train_net.py --config-file configs/mask_rcnn_R101_C4.yaml --num-gpus 8 --resume
train_net.py --config-file configs/mask_rcnn_R101_C4.yaml --eval-only MODEL.WEIGHTS model.pth
train_net.py --config-file configs/mask_rcnn_R101_C4.yaml --train my=my.json:images \\
    --val-fraction 0.1
"""

import os
import sys

# Before torch is imported: GNU OpenMP's threads wait by spinning, by default for so long that two
# trainings on the same cores slow each other down fivefold. This long costs one alone nothing.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from detectron2.config import get_cfg
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch.multiprocessing import ProcessRaisedException

from mrcnn_plugin import add_mrcnn_config
from mrcnn_plugin.engine import (
    LearningRate,
    MRCNNTrainer,
    NonFiniteError,
    ReportingCheckpointer,
    add_dataset_arguments,
    check_data,
    check_inputs,
    fit_learning_rate,
    merge_config,
    preflight_message,
    start_logging,
    use_available_device,
    use_datasets,
    write_report,
)
from mrcnn_plugin.errors import RunError


def setup(args):
    """Config file plus `KEY VALUE` overrides, checked and frozen; logging started."""
    cfg = get_cfg()
    add_mrcnn_config(cfg)
    merge_config(cfg, file=args.config_file)
    reference = LearningRate.of(cfg)
    merge_config(cfg, opts=args.opts)
    start_logging(cfg.OUTPUT_DIR)
    if not args.eval_only:
        fit_learning_rate(cfg, reference, scale=args.auto_scale_lr)
    use_available_device(cfg)
    use_datasets(cfg, args)
    cfg.freeze()
    default_setup(cfg, args)
    check_inputs(cfg, training=not args.eval_only)
    check_data(cfg, training=not args.eval_only)
    return cfg


def main(args):
    cfg = setup(args)
    if not args.eval_only:
        trainer = MRCNNTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()

    model = MRCNNTrainer.build_model(cfg)
    checkpointer = ReportingCheckpointer(model, cfg.OUTPUT_DIR)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    results = MRCNNTrainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(MRCNNTrainer.test_with_tta(cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)
    if cfg.TEST.REPORT:
        write_report(cfg)
    return results


def argument_parser():
    parser = default_argument_parser()
    add_dataset_arguments(parser)
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale SOLVER.BASE_LR to SOLVER.IMS_PER_BATCH in the config file's own ratio",
    )
    return parser


if __name__ == "__main__":
    args = argument_parser().parse_args()
    try:
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except NonFiniteError as error:
        sys.exit(f"train_net.py: {error}")
    except (RunError, ProcessRaisedException) as error:
        sys.exit(f"train_net.py: {preflight_message(error)}")
