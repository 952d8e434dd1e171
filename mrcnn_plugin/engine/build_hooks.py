"""The hooks of a run in order: detectron2's, and those that this plugin's keys ask for."""

import contextlib

from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.utils.events import JSONWriter

from .hooks.best_weights import BestWeights
from .hooks.early_stopping import EarlyStopping
from .hooks.ema import EMAHook
from .hooks.evaluation import Evaluation
from .hooks.progress import ProgressLine
from .hooks.report import ReportHook
from .hooks.validation_loss import build_validation_loader, validation_loss


def build_hooks(
    trainer, default: list[HookBase | None]
) -> tuple[list[HookBase], hooks.PeriodicCheckpointer | None]:
    """All hooks, and the one that saves checkpoints, which exists on the main process only.

    Weights are averaged before they are saved or evaluated. What depends on an evaluation comes
    after all evaluations, and before the checkpoint, which has to contain it. The writer is last.

    Args:
        trainer: the `MRCNNTrainer` whose hooks these become.
        default: the hooks of detectron2's `DefaultTrainer`.
    """
    cfg, model = trainer.cfg, trainer.model
    writer = [h for h in default if isinstance(h, hooks.PeriodicWriter)]
    checkpoint = [h for h in default if isinstance(h, hooks.PeriodicCheckpointer)]
    replaced = (hooks.PeriodicWriter, hooks.PeriodicCheckpointer, hooks.EvalHook)
    others = [h for h in default if h is not None and not isinstance(h, replaced)]
    others.append(ProgressLine())

    weights = contextlib.nullcontext
    if cfg.SOLVER.EMA_DECAY:
        ema = EMAHook(model=model, decay=cfg.SOLVER.EMA_DECAY, output_dir=cfg.OUTPUT_DIR)
        others.append(ema)
        weights = ema.applied
    evaluations = _evaluations(trainer, weights)
    decisions = _decisions(cfg, model, weights)
    report = []
    if cfg.TEST.REPORT and writer:
        json_writers = [w for w in trainer.writers if isinstance(w, JSONWriter)]
        report = [ReportHook(cfg=cfg, writers=json_writers)]
    # Without decisions the checkpoint comes first. A failed evaluation can be repeated from it.
    middle = [*evaluations, *decisions, *checkpoint] if decisions else [*checkpoint, *evaluations]
    return [*others, *middle, *report, *writer], next(iter(checkpoint), None)


def _evaluations(trainer, weights) -> list[HookBase]:
    cfg, model = trainer.cfg, trainer.model
    functions = [(trainer.evaluate, cfg.TEST.EVAL_PERIOD)]
    if cfg.TEST.VAL_LOSS:
        loader = build_validation_loader(cfg)

        def validate():
            return {"validation": validation_loss(model, loader)}

        functions.insert(0, (validate, cfg.TEST.EVAL_PERIOD))
    if cfg.TEST.AUG.ENABLED:  # at the end only: it is slow
        functions.append((lambda: trainer.test_with_tta(cfg, model), 0))
    return [
        Evaluation(function=function, period=period, weights=weights)
        for function, period in functions
    ]


def _decisions(cfg: CfgNode, model, weights) -> list[HookBase]:
    metric = cfg.TEST.BEST_METRIC
    if not metric:
        return []
    ret = [
        BestWeights(metric=metric, model=model, output_dir=cfg.OUTPUT_DIR, weights=weights),
    ]
    if cfg.TEST.EARLY_STOP_PATIENCE:
        patience, period = cfg.TEST.EARLY_STOP_PATIENCE, cfg.TEST.EVAL_PERIOD
        ret.append(EarlyStopping(metric=metric, patience=patience, period=period))
    return ret
