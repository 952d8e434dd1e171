"""Checks of the training options that would otherwise fail at the first evaluation or later."""

import difflib

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from ..errors import ConfigError
from ..evaluation.coco_eval import check_engine
from .augmentation import check_augmentation

_AP = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
}
_LOSSES = ("total_loss", "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg")


def check_training_options(cfg: CfgNode) -> None:
    """Check the training options and that an evaluation will compute `TEST.BEST_METRIC`.

    Raises:
        ConfigError: two options contradict each other, or a value is out of range.
        RunError: the package that evaluates is not installed.
    """
    check_required_options(cfg)
    if cfg.DATASETS.TEST:
        check_engine(cfg.TEST.COCO_EVAL)
    if cfg.TEST.BEST_METRIC:
        _check_metric_name(cfg)


def check_solver(cfg: CfgNode, *, infers_max_iter: bool = False) -> None:
    """Check the numbers of iterations and of images per batch.

    Args:
        cfg: with command-line overrides.
        infers_max_iter: `SOLVER.MAX_ITER` is set later, from the number of images.

    Raises:
        ConfigError: one of them is below 1, or the processes cannot share a batch equally.
    """
    for key in ("IMS_PER_BATCH",) if infers_max_iter else ("IMS_PER_BATCH", "MAX_ITER"):
        _check_at_least_one(cfg, key)
    processes = comm.get_world_size()
    if not cfg.SOLVER.REFERENCE_WORLD_SIZE and cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, which {processes} processes "
            f"cannot share equally. Set it to a multiple of {processes}."
        )


def _check_at_least_one(cfg: CfgNode, key: str) -> None:
    if cfg.SOLVER[key] < 1:
        raise ConfigError(f"SOLVER.{key} is {cfg.SOLVER[key]}; expected 1 or more")


def check_required_options(cfg: CfgNode) -> None:
    """Check everything but the name of the metric, which depends on the evaluators of a trainer.

    Raises:
        ConfigError: two options contradict each other, or a value is out of range.
    """
    _check_at_least_one(cfg, "MAX_ITER")  # `mrcnn train` infers it if a config file has 0
    _check_accumulate(cfg)
    check_augmentation(cfg)
    test = cfg.TEST
    if not 0 <= cfg.SOLVER.EMA_DECAY < 1:
        raise ConfigError(
            f"SOLVER.EMA_DECAY is {cfg.SOLVER.EMA_DECAY}; expected 0 (off) or a value below 1, "
            "such as 0.999"
        )
    if test.VAL_LOSS and not cfg.DATASETS.TEST:
        raise ConfigError(
            "TEST.VAL_LOSS needs a validation dataset, but DATASETS.TEST is empty. Pass --val or "
            "--val-fraction, or set DATASETS.TEST."
        )
    if test.BEST_METRIC and not cfg.DATASETS.TEST:
        raise ConfigError(
            f"TEST.BEST_METRIC is '{test.BEST_METRIC}', but DATASETS.TEST is empty: nothing is "
            "evaluated. Pass --val or --val-fraction, or set DATASETS.TEST."
        )
    is_loss = test.BEST_METRIC.startswith("validation/") and "validation" not in cfg.DATASETS.TEST
    if is_loss and not test.VAL_LOSS:
        raise ConfigError(
            f"TEST.BEST_METRIC {test.BEST_METRIC} needs TEST.VAL_LOSS True, which is False"
        )
    if test.EARLY_STOP_PATIENCE and not test.BEST_METRIC:
        raise ConfigError(
            "TEST.EARLY_STOP_PATIENCE needs TEST.BEST_METRIC. Set it, for example to segm/AP."
        )
    if test.EARLY_STOP_PATIENCE and test.EVAL_PERIOD <= 0:
        raise ConfigError(
            f"TEST.EARLY_STOP_PATIENCE needs TEST.EVAL_PERIOD, which is {test.EVAL_PERIOD}. Set it "
            "to the number of iterations between evaluations."
        )


def _check_accumulate(cfg: CfgNode) -> None:
    pieces, batch = cfg.SOLVER.ACCUMULATE, cfg.SOLVER.IMS_PER_BATCH
    # With a REFERENCE_WORLD_SIZE detectron2 scales the batch to the number of processes.
    per_process = batch // (cfg.SOLVER.REFERENCE_WORLD_SIZE or comm.get_world_size())
    if pieces < 1:
        raise ConfigError(f"SOLVER.ACCUMULATE is {pieces}; expected 1 or more pieces per batch")
    if pieces > per_process:
        raise ConfigError(
            f"SOLVER.ACCUMULATE is {pieces}, but each process has {per_process} images per batch. "
            f"SOLVER.IMS_PER_BATCH ({batch}) is the whole batch of a step: raise it, or accumulate "
            "less."
        )


def _check_metric_name(cfg: CfgNode) -> None:
    metric, datasets = cfg.TEST.BEST_METRIC, ", ".join(cfg.DATASETS.TEST)
    names, prefixes = known_metrics(cfg)
    if not names or metric in names or metric.startswith(tuple(prefixes)):
        return
    near = _nearest(metric, names)
    examples = ", ".join(names[:3])
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Expected for example {examples}."
    raise ConfigError(
        f"TEST.BEST_METRIC is '{metric}', which no evaluation of {datasets} computes. {hint}"
    )


def _nearest(metric: str, names: list[str]) -> list[str]:
    in_datasets = [name for name in names if name.lower().endswith(f"/{metric.lower()}")]
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(metric.lower(), by_lower, 2, 0.6)
    return in_datasets[:2] or [by_lower[name] for name in close]


def known_metrics(cfg: CfgNode) -> tuple[list[str], list[str]]:
    """The metrics that evaluations will compute, except with test-time augmentation.

    Returns:
        Names, and prefixes of names that are not known yet. Both are empty if a dataset has another
        evaluator than COCO's.
    """
    tasks = ["bbox"] + ["segm"] * cfg.MODEL.MASK_ON + ["keypoints"] * cfg.MODEL.KEYPOINT_ON
    names, prefixes = [], []
    for dataset in cfg.DATASETS.TEST:
        metadata = MetadataCatalog.get(dataset)
        if metadata.get("evaluator_type", "coco") != "coco":
            return [], []
        classes = list(cfg.DATASETS.CLASS_NAMES) or metadata.get("thing_classes", [])
        for task in tasks:
            start = f"{dataset}/{task}/" if len(cfg.DATASETS.TEST) > 1 else f"{task}/"
            names += [start + ap for ap in _AP[task]]
            if len(classes) > 1:  # COCOEvaluator computes no AP of a single class
                names += [f"{start}AP-{label}" for label in classes]
            if not classes:  # they are known when the dataset has been loaded
                prefixes.append(f"{start}AP-")
    if cfg.TEST.VAL_LOSS:
        names += [f"validation/{loss}" for loss in _LOSSES]
        names += ["validation/loss_mask"] * cfg.MODEL.MASK_ON
        heads = (cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_MASK_HEAD.NAME)
        if not all(head.startswith("MRCNN") for head in heads):
            prefixes.append("validation/loss_")  # other heads may have other losses
    return names, prefixes
