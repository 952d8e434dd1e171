"""What the keys of docs/monitoring.md add to detectron2's trainer: the step, and hooks in order."""

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from torch import nn

from .hooks.best_weights import BestWeights, EarlyStopping
from .hooks.ema import EMAHook
from .hooks.progress import ProgressLine
from .hooks.report import ReportHook
from .hooks.validation_loss import build_validation_loader, validation_loss
from .nonfinite import StepRecorder, amp_dtype_of
from .train_step import TrainStep


def build_step(cfg: CfgNode, model: nn.Module, data_loader, optimizer) -> TrainStep:
    """The `TrainStep` of a config: `SOLVER.AMP`, `SOLVER.ACCUMULATE`.

    Raises:
        ValueError: more pieces than a process has images of a batch.
    """
    pieces, per_process = cfg.SOLVER.ACCUMULATE, cfg.SOLVER.IMS_PER_BATCH
    per_process //= comm.get_world_size()
    if pieces > per_process:
        raise ValueError(
            f"SOLVER.ACCUMULATE is {pieces}, but a process has {per_process} images of each "
            "batch. SOLVER.IMS_PER_BATCH is the whole batch of a step: raise it, or accumulate less"
        )
    device = next(model.parameters()).device
    amp_dtype = amp_dtype_of(cfg, device)
    return TrainStep(
        model,
        data_loader,
        optimizer,
        on_nonfinite=StepRecorder(cfg, model).stop,
        amp_dtype=amp_dtype,
        scaler=torch.amp.GradScaler(device.type) if amp_dtype == torch.float16 else None,
        accumulate=pieces,
    )


def add_monitoring_hooks(trainer, default: list[HookBase | None]) -> list[HookBase | None]:
    """detectron2's hooks with those that the config asks for in their places.

    Weights are averaged before they are saved or evaluated; what follows an evaluation comes after
    all evaluations, and before the checkpoint that has to remember it. The writer stays last.
    """
    cfg = trainer.cfg
    writer = [h for h in default if isinstance(h, hooks.PeriodicWriter)]
    evaluations = [h for h in default if isinstance(h, hooks.EvalHook)]
    checkpoint = [h for h in default if isinstance(h, hooks.PeriodicCheckpointer)]
    others = [h for h in default if h not in (*writer, *evaluations, *checkpoint)]
    others.append(ProgressLine())
    report = [ReportHook(cfg, h) for h in writer if cfg.TEST.REPORT]

    if cfg.TEST.VAL_LOSS:
        evaluations.insert(0, _validation_hook(cfg, trainer.model))
    ema = None
    if cfg.SOLVER.EMA_DECAY:
        ema = EMAHook(trainer.model, cfg.SOLVER.EMA_DECAY, cfg.OUTPUT_DIR)
        others.append(ema)
        for hook in evaluations:
            hook._func = ema.evaluating(hook._func)
    decisions = _decisions(cfg, trainer.model, ema)
    if decisions:
        checkpoint = [_StoppableCheckpointer(h.checkpointer, h.period) for h in checkpoint]
        return [*others, *evaluations, *decisions, *checkpoint, *report, *writer]
    return [*others, *checkpoint, *evaluations, *report, *writer]


def _validation_hook(cfg: CfgNode, model: nn.Module) -> hooks.EvalHook:
    loader = build_validation_loader(cfg)
    return hooks.EvalHook(
        cfg.TEST.EVAL_PERIOD, lambda: {"validation": validation_loss(model, loader)}
    )


def _decisions(cfg: CfgNode, model: nn.Module, ema: EMAHook | None) -> list[HookBase]:
    metric, patience = cfg.TEST.BEST_METRIC, cfg.TEST.EARLY_STOP_PATIENCE
    if metric.startswith("validation/") and not cfg.TEST.VAL_LOSS:
        raise ValueError(f"TEST.BEST_METRIC {metric} needs TEST.VAL_LOSS True")
    ret = [BestWeights(metric, model, cfg.OUTPUT_DIR, ema=ema)] if metric else []
    if patience:
        ret.append(EarlyStopping(metric, patience, cfg.TEST.EVAL_PERIOD))
    return ret


class _StoppableCheckpointer(hooks.PeriodicCheckpointer):
    """Sees that the last iteration has come earlier."""

    def after_step(self):
        self.max_iter = self.trainer.max_iter
        super().after_step()
