"""The best weights by an evaluated metric, and the end of training when it no longer improves."""

import logging
import math
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from ...checkpoint.checkpointer import save_weights

logger = logging.getLogger(__name__)


def higher_is_better(metric: str) -> bool:
    """True for APs and accuracies; losses are better when lower."""
    return "loss" not in metric


class MetricHook(HookBase):
    """Calls `on_metric` after every evaluation that gave the metric, on the main process.

    It must come after the hooks that evaluate. On other processes, which have no results, nothing
    is called.
    """

    def __init__(self, metric: str):
        """
        Args:
            metric: as in metrics.json, like "segm/AP" or "validation/total_loss".
        """
        self.metric = metric
        self.best: float | None = None
        self._seen: int | None = None  # iteration of the last value looked at

    def improves(self, value: float) -> bool:
        """Whether a value beats the best one; NaN never does (AP of no detections is NaN)."""
        if math.isnan(value):
            return False
        if self.best is None:
            return True
        return value > self.best if higher_is_better(self.metric) else value < self.best

    def look(self) -> None:
        """Hand on the metric if it has been evaluated since the last look.

        Raises:
            ValueError: other metrics have been evaluated now, this one has not.
        """
        latest = self.trainer.storage.latest()
        value, iteration = latest.get(self.metric, (None, None))
        if iteration == self.trainer.storage.iter and iteration != self._seen:
            self._seen = iteration
            self.on_metric(float(value), iteration)
            return
        others = [
            n for n, (_, i) in latest.items() if i == self.trainer.storage.iter and "/AP" in n
        ]
        if others and value is None:
            raise ValueError(
                f"TEST.BEST_METRIC is '{self.metric}', but the evaluation gave "
                f"{', '.join(sorted(others))}: name one of these"
            )

    def on_metric(self, value: float, iteration: int) -> None:
        raise NotImplementedError

    def after_step(self):
        if comm.is_main_process():
            self.look()

    def after_train(self):
        if comm.is_main_process():
            self.look()


class BestWeights(MetricHook):
    """Writes `model_best.pth` whenever the metric is better than ever before, also across resumes.

    The file has the weights that were evaluated, with `metric`, `value` and `iteration`. It does
    not become the checkpoint that `--resume` continues from.
    """

    def __init__(self, metric: str, model: nn.Module, output_dir: str, *, ema=None):
        """
        Args:
            metric: see `MetricHook`.
            model: the model in training, wrapped or not.
            output_dir: where `model_best.pth` goes.
            ema: the `EMAHook` whose average is evaluated and therefore saved, if there is one.
        """
        super().__init__(metric)
        self.model = getattr(model, "module", model)
        self.file = Path(output_dir, "model_best.pth")
        self.save = ema.evaluating(save_weights) if ema else save_weights

    def before_train(self):
        """On resume the file may be newer than the checkpoint: the last evaluation comes later."""
        if self.trainer.start_iter > 0 and self.file.exists():
            saved = torch.load(self.file, map_location="cpu", mmap=True)
            if saved.get("metric") == self.metric and self.improves(saved["value"]):
                self.best = saved["value"]

    def on_metric(self, value: float, iteration: int) -> None:
        if not self.improves(value):
            logger.info(f"{self.metric} is {value:.4g}; the best is still {self.best}")
            return
        self.best = value
        logger.info(f"{self.metric} is {value:.4g}, the best so far: saving {self.file}")
        self.save(self.file, self.model, metric=self.metric, value=value, iteration=iteration)

    def state_dict(self) -> dict:
        return {"metric": self.metric, "best": self.best}

    def load_state_dict(self, state: dict) -> None:
        if state["metric"] == self.metric:  # else the config has changed: another metric begins
            self.best = state["best"]


class EarlyStopping(MetricHook):
    """Ends training after `patience` evaluations in a row that did not improve the metric.

    The main process decides, every process obeys. Training ends as at `MAX_ITER`: the checkpoint is
    `model_final.pth`, and the last evaluation runs.
    """

    def __init__(self, metric: str, patience: int, period: int):
        """
        Args:
            metric: see `MetricHook`.
            patience: evaluations without improvement that are borne.
            period: iterations between evaluations, `TEST.EVAL_PERIOD`.

        Raises:
            ValueError: there is no metric, or no evaluation before the end.
        """
        if not metric:
            raise ValueError("TEST.EARLY_STOP_PATIENCE needs TEST.BEST_METRIC, 'segm/AP' say")
        if period <= 0:
            raise ValueError(
                f"TEST.EARLY_STOP_PATIENCE needs TEST.EVAL_PERIOD, which is {period}: set "
                "it to the iterations between two evaluations"
            )
        super().__init__(metric)
        self.patience = patience
        self.period = period
        self.num_worse = 0

    def on_metric(self, value: float, iteration: int) -> None:
        if self.improves(value):
            self.best, self.num_worse = value, 0
        else:
            self.num_worse += 1

    def after_step(self):
        super().after_step()
        if (self.trainer.iter + 1) % self.period:
            return
        num_worse = comm.all_gather(self.num_worse)[0]
        if num_worse >= self.patience and self.trainer.iter + 1 < self.trainer.max_iter:
            logger.info(
                f"Stopping at iteration {self.trainer.iter}: {self.metric} has not improved in "
                f"{num_worse} evaluations; the best is {self.best}"
            )
            self.trainer.stop_after_this_step()

    def state_dict(self) -> dict:
        return {"metric": self.metric, "best": self.best, "num_worse": self.num_worse}

    def load_state_dict(self, state: dict) -> None:
        if state["metric"] == self.metric:
            self.best, self.num_worse = state["best"], state["num_worse"]
