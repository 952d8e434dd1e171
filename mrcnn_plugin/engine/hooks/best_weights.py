"""Saves the weights that are best by an evaluated metric."""

import contextlib
import logging
import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ...checkpoint.model_file import write_model_file
from ..distributed import unwrap
from .metric import MetricHook

logger = logging.getLogger(__name__)


class BestWeights(MetricHook):
    """Writes `model_best.pth` whenever the metric is better than ever before, also across resumes.

    The file has the weights that were evaluated, with `metric`, `value` and `iteration`. It does
    not become the checkpoint that `--resume` continues from. detectron2's `BestCheckpointer`
    forgets the best value on resume and cannot save averaged weights.
    """

    def __init__(
        self,
        *,
        metric: str,
        model: nn.Module,
        output_dir: str,
        about: Callable[[], dict] = dict,
        weights: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ):
        """
        Args:
            metric: see `MetricHook`.
            model: the model in training, wrapped or not.
            output_dir: the folder of `model_best.pth`.
            about: returns what the file has in addition, see `model_file.description`.
            weights: a context in which the model has the weights to save (`EMAHook.applied`).
        """
        super().__init__(metric=metric)
        self.model = unwrap(model)
        self.file = Path(output_dir, "model_best.pth")
        self.about = about
        self.weights = weights

    def before_train(self):
        """On resume the file may be newer than the checkpoint, which precedes an evaluation."""
        if self.trainer.start_iter > 0 and self.file.exists():
            try:
                saved = torch.load(self.file, map_location="cpu", weights_only=True, mmap=True)
            except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
                logger.warning(
                    f"{self.file} cannot be read ({error}). The best value is that of the "
                    f"checkpoint, {self.best}; the next better evaluation replaces the file."
                )
                return
            if saved.get("metric") == self.metric and self.improves(saved["value"]):
                self.best = saved["value"]

    def on_metric(self, value: float, iteration: int) -> None:
        if not self.improves(value):
            best = "none yet" if self.best is None else f"{self.best:.4g}"
            logger.info(f"{self.metric} is {value:.4g}; the best is still {best}")
            return
        self.best = value
        logger.info(f"{self.metric} is {value:.4g}, the best so far: saving {self.file}")
        with self.weights():
            found = {"metric": self.metric, "value": value, "iteration": iteration}
            write_model_file(self.file, self.model.state_dict(), {**self.about(), **found})

    def state_dict(self) -> dict:
        return {"metric": self.metric, "best": self.best}

    def load_state_dict(self, state: dict) -> None:
        if state["metric"] == self.metric:  # else the config names another metric now
            self.best = state["best"]
