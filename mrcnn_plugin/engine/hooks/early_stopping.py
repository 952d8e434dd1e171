"""Ends training when an evaluated metric no longer improves."""

import logging

from detectron2.utils import comm

from .metric import MetricHook

logger = logging.getLogger(__name__)


class EarlyStopping(MetricHook):
    """Ends training after `patience` consecutive evaluations that did not improve the metric.

    The main process decides and every process follows. Training ends as it does at `MAX_ITER`, with
    the checkpoint `model_final.pth` and an evaluation.
    """

    def __init__(self, *, metric: str, patience: int, period: int):
        """
        Args:
            metric: see `MetricHook`.
            patience: consecutive evaluations without improvement after which training stops.
            period: iterations between evaluations, `TEST.EVAL_PERIOD`; positive.
        """
        super().__init__(metric=metric)
        self.patience = patience
        self.period = period
        self.num_worse = 0
        self.stopped = False

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
                f"{num_worse} evaluations; the best is {_rounded(self.best)}"
            )
            self.stopped = True
            self.trainer.stop_after_this_step()

    def state_dict(self) -> dict:
        return {
            "metric": self.metric,
            "best": self.best,
            "num_worse": self.num_worse,
            "stopped": self.stopped,
        }

    def load_state_dict(self, state: dict) -> None:
        if state["metric"] == self.metric:  # else the config names another metric now
            self.best, self.num_worse = state["best"], state["num_worse"]


def _rounded(value: float | None) -> str:
    return "none yet" if value is None else f"{value:.4g}"
