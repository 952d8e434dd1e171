"""Evaluates every few iterations and at the end of training."""

import contextlib
from collections.abc import Callable

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm


class Evaluation(HookBase):
    """detectron2's `EvalHook`, except that it never evaluates the same weights twice.

    A run that stops early has just been evaluated when `EvalHook` evaluates it again at the end.
    Results go into the event storage under flattened names such as "segm/AP".
    """

    def __init__(
        self,
        *,
        function: Callable[[], dict],
        period: int,
        weights: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ):
        """
        Args:
            function: returns nested dicts of numbers. It is called in every process.
            period: iterations between evaluations; 0 evaluates at the end only.
            weights: a context in which the model has the weights to evaluate (`EMAHook.applied`).
        """
        self.period = period
        self.function = function
        self.weights = weights
        self._next_iter_evaluated: int | None = None

    def after_step(self):
        next_iter = self.trainer.iter + 1
        if self.period > 0 and next_iter % self.period == 0 and next_iter != self.trainer.max_iter:
            self._evaluate(next_iter)

    def after_train(self):
        finished = self.trainer.iter >= self.trainer.max_iter  # not after an error
        if finished and self._next_iter_evaluated != self.trainer.iter:
            self._evaluate(self.trainer.iter)
        del self.function  # it may refer to the trainer

    def _evaluate(self, next_iter: int) -> None:
        with self.weights():
            results = self.function()
        self._next_iter_evaluated = next_iter
        if results:
            values = {name: float(v) for name, v in flatten_results_dict(results).items()}
            self.trainer.storage.put_scalars(**values, smoothing_hint=False)
        comm.synchronize()  # the next iteration begins together
