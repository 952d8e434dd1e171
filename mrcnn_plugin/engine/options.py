"""Checks of the training options that would otherwise fail at the first evaluation or later."""

import difflib
import fnmatch
from glob import escape as fnmatch_escape

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from ..errors import ConfigError

_AP = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_LOSSES = ("total_loss", "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask")


def check_training_options(cfg: CfgNode) -> None:
    """Check `SOLVER.ACCUMULATE`, `SOLVER.EMA_DECAY`, `TEST.BEST_METRIC` and what needs them.

    Raises:
        ConfigError: two options contradict each other, or a value is out of range.
    """
    _check_accumulate(cfg)
    if not 0 <= cfg.SOLVER.EMA_DECAY < 1:
        raise ConfigError(
            f"SOLVER.EMA_DECAY is {cfg.SOLVER.EMA_DECAY}; expected 0 (off) or a value below 1, "
            "such as 0.999"
        )
    if cfg.TEST.VAL_LOSS and not cfg.DATASETS.TEST:
        raise ConfigError(
            "TEST.VAL_LOSS needs a validation dataset, but DATASETS.TEST is empty. Pass --val or "
            "--val-fraction, or set DATASETS.TEST."
        )
    if cfg.TEST.EARLY_STOP_PATIENCE:
        if not cfg.TEST.BEST_METRIC:
            raise ConfigError(
                "TEST.EARLY_STOP_PATIENCE needs TEST.BEST_METRIC. Set it, for example to segm/AP."
            )
        if cfg.TEST.EVAL_PERIOD <= 0:
            raise ConfigError(
                f"TEST.EARLY_STOP_PATIENCE needs TEST.EVAL_PERIOD, which is "
                f"{cfg.TEST.EVAL_PERIOD}. Set it to the number of iterations between evaluations."
            )
    if cfg.TEST.BEST_METRIC:
        _check_metric(cfg)


def _check_accumulate(cfg: CfgNode) -> None:
    pieces = cfg.SOLVER.ACCUMULATE
    per_process = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    if pieces < 1:
        raise ConfigError(f"SOLVER.ACCUMULATE is {pieces}; expected 1 or more pieces per batch")
    if pieces > per_process:
        raise ConfigError(
            f"SOLVER.ACCUMULATE is {pieces}, but each process has {per_process} images per batch. "
            "SOLVER.IMS_PER_BATCH is the whole batch of a step: raise it, or accumulate less."
        )


def _check_metric(cfg: CfgNode) -> None:
    metric = cfg.TEST.BEST_METRIC
    if not cfg.DATASETS.TEST:
        raise ConfigError(
            f"TEST.BEST_METRIC is '{metric}', but DATASETS.TEST is empty: nothing is evaluated"
        )
    if metric.startswith("validation/") and not cfg.TEST.VAL_LOSS:
        raise ConfigError(f"TEST.BEST_METRIC {metric} needs TEST.VAL_LOSS True")
    known = known_metrics(cfg)
    if known and not any(fnmatch.fnmatchcase(metric, pattern) for pattern in known):
        lower = {name.lower(): name for name in known}
        near = difflib.get_close_matches(metric.lower(), lower, 2, 0.5)
        hint = f"Did you mean {' or '.join(lower[n] for n in near)}?" if near else ""
        raise ConfigError(
            f"TEST.BEST_METRIC is '{metric}', which no evaluation of {', '.join(cfg.DATASETS.TEST)}"
            f" gives. {hint or 'Expected for example ' + ', '.join(known[:3])}"
        )


def known_metrics(cfg: CfgNode) -> list[str]:
    """Patterns of the metrics that evaluations will give; empty if an evaluator is not COCO's."""
    tasks = ["bbox"] + ["segm"] * cfg.MODEL.MASK_ON + ["keypoints"] * cfg.MODEL.KEYPOINT_ON
    several = len(cfg.DATASETS.TEST) > 1
    known = [f"validation/{name}" for name in _LOSSES] if cfg.TEST.VAL_LOSS else []
    for name in cfg.DATASETS.TEST:
        metadata = MetadataCatalog.get(name)
        if metadata.get("evaluator_type", "coco") != "coco":
            return []
        classes = list(cfg.DATASETS.CLASS_NAMES) or metadata.get("thing_classes")
        prefix = f"{name}/" if several else ""
        # Other class names are known when the dataset has been loaded.
        per_class = [f"AP-{fnmatch_escape(label)}" for label in classes] if classes else ["AP-*"]
        known += [f"{prefix}{task}/{ap}" for task in tasks for ap in (*_AP, *per_class)]
    if cfg.TEST.AUG.ENABLED:
        known += [f"{task}_TTA/{ap}" for task in tasks for ap in _AP]
    return known
