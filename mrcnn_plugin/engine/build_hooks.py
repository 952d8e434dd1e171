"""The hooks of a run in order: detectron2's, and those that this plugin's keys ask for."""

import contextlib
from typing import NamedTuple

from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.utils.events import CommonMetricPrinter, JSONWriter

from ..checkpoint.model_file import description
from ..evaluation import inference_folder
from ..evaluation.analysis import load_analysis
from ..precision import autocast
from .hooks.best_weights import BestWeights
from .hooks.early_stopping import EarlyStopping
from .hooks.ema import EMAHook
from .hooks.evaluation import Evaluation, SaveEvaluated
from .hooks.progress import ProgressLine
from .hooks.report import ReportHook
from .hooks.validation_loss import build_validation_loader, validation_loss


class Hooks(NamedTuple):
    """The hooks of a run in order."""

    all: list[HookBase]
    evaluation: Evaluation
    after_checkpoint: list[HookBase]  # the last ones of `all`: what a checkpoint does not have yet
    checkpoint: hooks.PeriodicCheckpointer | None  # on the main process only


def build_hooks(trainer, default: list[HookBase | None]) -> Hooks:
    """detectron2's hooks, and those that this plugin's keys ask for.

    Weights are averaged before they are saved or evaluated. The checkpoint comes before the
    evaluation, which may fail, and is saved again after everything that depends on the evaluation.
    The writer is last.

    Args:
        trainer: the `MRCNNTrainer` whose hooks these become.
        default: the hooks of detectron2's `DefaultTrainer`.
    """
    cfg, model = trainer.cfg, trainer.model
    writer = [h for h in default if isinstance(h, hooks.PeriodicWriter)]
    checkpoint = [h for h in default if isinstance(h, hooks.PeriodicCheckpointer)]
    replaced = (hooks.PeriodicWriter, hooks.PeriodicCheckpointer, hooks.EvalHook)
    first = [h for h in default if h is not None and not isinstance(h, replaced)]
    first.append(ProgressLine())

    def about():
        return description(cfg, _score_thresholds(cfg))

    weights = contextlib.nullcontext
    if cfg.SOLVER.EMA_DECAY:
        decay, folder = cfg.SOLVER.EMA_DECAY, cfg.OUTPUT_DIR
        ema = EMAHook(model=model, decay=decay, output_dir=folder, about=about)
        first.append(ema)
        weights = ema.applied
    evaluation = _evaluation(trainer, weights)
    last = [evaluation, *_decisions(cfg, model, weights, about)]
    if checkpoint:
        # The one of the screen computes the time per iteration since its last line.
        writers = [w for w in trainer.writers if not isinstance(w, CommonMetricPrinter)]
        last.append(
            SaveEvaluated(
                evaluation=evaluation, checkpoint=checkpoint[0], writers=writers, about=about
            )
        )
    if cfg.TEST.REPORT and writer:
        json_writers = [w for w in trainer.writers if isinstance(w, JSONWriter)]
        last.append(ReportHook(cfg=cfg, writers=json_writers))
    last += writer
    return Hooks([*first, *checkpoint, *last], evaluation, last, next(iter(checkpoint), None))


def _evaluation(trainer, weights) -> Evaluation:
    cfg, model = trainer.cfg, trainer.model
    functions, at_end = [trainer.evaluate], []
    if cfg.TEST.VAL_LOSS:
        loader = build_validation_loader(cfg)

        def losses() -> dict:
            with autocast(cfg, next(model.parameters()).device):
                return {"validation": validation_loss(model, loader)}

        functions.insert(0, losses)
    if cfg.TEST.AUG.ENABLED:  # at the end only: it is slow
        at_end.append(lambda: trainer.test_with_tta(cfg, model))
    return Evaluation(
        functions=functions, at_end=at_end, period=cfg.TEST.EVAL_PERIOD, weights=weights
    )


def _score_thresholds(cfg: CfgNode) -> list[float] | None:
    """Those of best F1 in the last evaluation; 0.5 for classes that have none."""
    if not cfg.DATASETS.TEST:
        return None
    analysis = load_analysis(inference_folder(cfg, cfg.DATASETS.TEST[0])) or {}
    found = analysis.get("f1", {}).get("thresholds", ())
    if len(found) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        return None
    return [0.5 if threshold is None else threshold for threshold in found]


def _decisions(cfg: CfgNode, model, weights, about) -> list[HookBase]:
    metric = cfg.TEST.BEST_METRIC
    if not metric:
        return []
    folder = cfg.OUTPUT_DIR
    ret: list[HookBase] = [
        BestWeights(metric=metric, model=model, output_dir=folder, about=about, weights=weights)
    ]
    if cfg.TEST.EARLY_STOP_PATIENCE:
        patience, period = cfg.TEST.EARLY_STOP_PATIENCE, cfg.TEST.EVAL_PERIOD
        ret.append(EarlyStopping(metric=metric, patience=patience, period=period))
    return ret
