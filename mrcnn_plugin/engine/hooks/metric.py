"""The base of hooks that act on an evaluated metric."""

import math

from detectron2.engine import HookBase
from detectron2.utils import comm

from ...errors import RunError


def higher_is_better(metric: str) -> bool:
    """False for losses, which are named "loss_..." or "total_loss" after the last slash.

    "AP-<class>" is never a loss, even if the name of the class has a slash, as in "cup/loss".
    """
    *path, name = metric.split("/")
    is_ap = any(part.startswith("AP") for part in path)
    return is_ap or not name.startswith(("loss", "total_loss"))


class MetricHook(HookBase):
    """Calls `on_metric` after every evaluation that computes the metric, on the main process.

    Register it after the hooks that evaluate. Other processes have no results, so nothing is
    called there.
    """

    def __init__(self, *, metric: str):
        """
        Args:
            metric: a name of metrics.json, such as "segm/AP" or "validation/total_loss".
        """
        self.metric = metric
        self.best: float | None = None
        self._handled: int | None = None  # iteration of the last value that was handled

    def improves(self, value: float) -> bool:
        """Whether a value is better than the best one. NaN, the AP of no detections, never is."""
        if math.isnan(value):
            return False
        if self.best is None:
            return True
        return value > self.best if higher_is_better(self.metric) else value < self.best

    def check_metric(self) -> None:
        """Pass the metric to `on_metric` if it has been evaluated since the last call.

        Raises:
            RunError: other metrics have been evaluated now, but this one has not.
        """
        latest = self.trainer.storage.latest()
        value, iteration = latest.get(self.metric, (None, None))
        if iteration == self.trainer.storage.iter and iteration != self._handled:
            self._handled = iteration
            self.on_metric(float(value), iteration)
            return
        others = [
            n for n, (_, i) in latest.items() if i == self.trainer.storage.iter and "/AP" in n
        ]
        if others and value is None:
            raise RunError(
                f"TEST.BEST_METRIC is '{self.metric}', but the evaluation computed "
                f"{', '.join(sorted(others))}. Set it to one of these."
            )

    def on_metric(self, value: float, iteration: int) -> None:
        raise NotImplementedError

    def after_step(self):
        if comm.is_main_process():
            self.check_metric()

    def after_train(self):
        if comm.is_main_process():
            self.check_metric()
