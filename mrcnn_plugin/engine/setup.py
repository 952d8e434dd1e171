"""Everything between the command line and the model: config, logging, datasets, checks."""

import argparse
import importlib.util
import logging
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng

from ..checkpoint.files import write_atomically
from ..config import check_mrcnn_config
from ..data.processes import run_on_main_process
from ..errors import RunError
from .config_loading import find_config, is_model_file, load_config, merge_config
from .datasets import check_data, use_datasets
from .distributed import describe_process
from .epochs import fit_schedule, infers_schedule
from .learning_rate import LearningRate, fit_learning_rate
from .logs import FILE_ONLY, start_logging
from .options import check_solver, check_training_options
from .preflight import check_inputs, check_output_dir, check_start, use_available_device
from .resume import lock_output_dir, prepare_output_dir

logger = logging.getLogger(__name__)


def setup(args: argparse.Namespace) -> CfgNode:
    """The frozen config of a run, whose inputs have been checked and whose logging has started.

    In order: config file, overrides, output folder and its lock, logging, learning rate, device,
    datasets, checks of the weights and data, schedule (it depends on the number of images), random
    seed, checks of the options.

    Args:
        args: of `cli.train.argument_parser`.

    Raises:
        RunError: the run cannot start.
    """
    training = not args.eval_only
    if not is_model_file(args.config_file):
        args.config_file = find_config(args.config_file)
    cfg = load_config(args.config_file)
    reference = LearningRate.of(cfg)
    infers = training and infers_schedule(cfg, args.epochs)
    given = set(args.opts[0::2])
    merge_config(cfg, opts=args.opts)
    check_output_dir(cfg.OUTPUT_DIR)
    run_on_main_process(lambda: lock_output_dir(cfg.OUTPUT_DIR))
    start_logging(cfg.OUTPUT_DIR)
    if is_model_file(args.config_file):
        logger.info(
            f"The config is that of {args.config_file}, without the datasets, the schedule and the "
            f"OUTPUT_DIR of its run. OUTPUT_DIR is {cfg.OUTPUT_DIR}"
        )

    if training:
        check_solver(cfg, infers_max_iter=infers and "SOLVER.MAX_ITER" not in given)
        fit_learning_rate(cfg, reference, scale=args.auto_scale_lr)
    use_available_device(cfg)
    check_mrcnn_config(cfg)
    use_datasets(cfg, args)
    check_inputs(cfg, training=training)
    check_datasets(cfg, training=training)
    check_start(cfg, training=training, resume=args.resume)
    check_data(cfg, training=training)
    if infers:
        fit_schedule(cfg, epochs=args.epochs, given=given)
    cfg.freeze()
    log_and_seed(cfg, args)
    if training:
        check_training_options(cfg)
        prepare_output_dir(cfg, resume=args.resume)
    save_config(cfg)  # last, so that a run that cannot start does not replace the config of another
    return cfg


def check_datasets(cfg: CfgNode, *, training: bool) -> None:
    """Check that there are datasets, and that the packages to read them are installed.

    Raises:
        RunError: `DATASETS.TRAIN` is empty, or `DATASETS.TEST` with `--eval-only`, or the package
            lvis is missing.
    """
    key, option = ("TRAIN", "--train") if training else ("TEST", "--eval-only with --val")
    if not cfg.DATASETS[key]:
        raise RunError(
            f"DATASETS.{key} is empty. Pass {option} name=annotations.json:images, or set it to "
            "the name of a registered dataset."
        )
    for name in (*(cfg.DATASETS.TRAIN if training else ()), *cfg.DATASETS.TEST):
        kind = MetadataCatalog.get(name).get("evaluator_type")
        if kind == "lvis" and importlib.util.find_spec("lvis") is None:
            raise RunError(
                f"The dataset '{name}' has evaluator_type 'lvis', which needs the package lvis, "
                "but it is not installed. Run `pip install lvis`."
            )


def log_and_seed(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Log the run and seed the generators, after `start_logging`.

    With `save_config`, the same as detectron2's `default_setup`, with the long texts in `log.txt`
    only.

    Args:
        cfg: the full config.
        args: the parsed command line; `eval_only` is read.
    """
    rank = comm.get_rank()
    logger.info(_summary(cfg, training=not args.eval_only))
    if comm.get_world_size() > 1:
        logger.info(describe_process())
    logger.info("Environment info:\n" + collect_env_info(), extra=FILE_ONLY)
    logger.info(f"Command line arguments: {args}", extra=FILE_ONLY)
    logger.info(f"Running with full config:\n{cfg.dump()}", extra=FILE_ONLY)
    # Every process draws other random numbers, the same ones in every run with a seed.
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def save_config(cfg: CfgNode) -> None:
    """Write `OUTPUT_DIR/config.yaml` on the main process."""
    if comm.is_main_process():
        path = f"{cfg.OUTPUT_DIR}/config.yaml"
        write_atomically(Path(path), lambda file: file.write(cfg.dump().encode()))
        logger.info(f"The full config is in {path}; it and the model are logged in log.txt there")


def _summary(cfg: CfgNode, *, training: bool) -> str:
    test = f"evaluating on {', '.join(cfg.DATASETS.TEST) or 'nothing'}"
    weights = f"weights: {cfg.MODEL.WEIGHTS or 'random'}"
    where = f"{cfg.MODEL.DEVICE}, World size: {comm.get_world_size()}, torch {torch.__version__}"
    if not training:
        return f"{test.capitalize()}; {weights}; {where}"
    return (
        f"Training on {', '.join(cfg.DATASETS.TRAIN)}, {test}; {cfg.SOLVER.MAX_ITER} iterations of "
        f"{cfg.SOLVER.IMS_PER_BATCH} images, base learning rate {cfg.SOLVER.BASE_LR:g}; {weights}; "
        f"{where}"
    )
