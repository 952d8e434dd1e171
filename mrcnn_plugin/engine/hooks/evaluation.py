"""Evaluates every few iterations and at the end of training."""

import contextlib
from collections.abc import Callable, Sequence

from detectron2.engine import HookBase, hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventWriter


class Evaluation(HookBase):
    """detectron2's `EvalHook`, except that it never evaluates the same weights twice.

    A run that stops early has just been evaluated when `EvalHook` evaluates it again at the end.
    Results go into the event storage under flattened names such as "segm/AP". A checkpoint contains
    whether its weights have been evaluated, so that an interrupted evaluation can be repeated.
    """

    def __init__(
        self,
        *,
        functions: Sequence[Callable[[], dict]],
        at_end: Sequence[Callable[[], dict]] = (),
        period: int,
        weights: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ):
        """
        Args:
            functions: return nested dicts of numbers. They are called in every process, in order.
            at_end: such functions that are called at the end of training only, after the others.
            period: iterations between evaluations; 0 evaluates at the end only.
            weights: a context in which the model has the weights to evaluate (`EMAHook.applied`).
        """
        self.functions = functions
        self.at_end = at_end
        self.period = period
        self.weights = weights
        # Iterations of the weights that were evaluated last. None: not known, not resumed.
        self.num_evaluated: int | None = None

    def is_due(self, num_iterations: int) -> bool:
        """Whether weights after so many iterations are to be evaluated during training."""
        period, is_last = self.period, num_iterations == self.trainer.max_iter
        return period > 0 and num_iterations % period == 0 and not is_last

    def is_pending(self) -> bool:
        """On resume, whether the checkpoint was saved before its weights were evaluated."""
        start = self.trainer.start_iter
        return self.num_evaluated not in (None, start) and self.is_due(start)

    def after_step(self):
        num_iterations = self.trainer.iter + 1
        if self.is_due(num_iterations) and self.num_evaluated != num_iterations:
            self._evaluate(self.functions, num_iterations)

    def after_train(self):
        finished = self.trainer.iter >= self.trainer.max_iter  # not after an error
        if finished:
            again = self.num_evaluated == self.trainer.iter
            self._evaluate([*(() if again else self.functions), *self.at_end], self.trainer.iter)
        self.functions = self.at_end = ()  # they may refer to the trainer

    def _evaluate(self, functions: Sequence[Callable[[], dict]], num_iterations: int) -> None:
        for function in functions:
            with self.weights(), self.trainer.stop_signals.raising():
                results = function()
            if results:
                values = {name: float(v) for name, v in flatten_results_dict(results).items()}
                self.trainer.storage.put_scalars(**values, smoothing_hint=False)
            comm.synchronize()  # the next iteration begins together
        self.num_evaluated = num_iterations

    def state_dict(self) -> dict:
        return {"num_evaluated": self.num_evaluated}

    def load_state_dict(self, state: dict) -> None:
        self.num_evaluated = state["num_evaluated"] or 0


class SaveEvaluated(HookBase):
    """Saves a checkpoint again after its weights have been evaluated, on the main process.

    The first one, from before the evaluation, is what remains if the evaluation fails. The second
    one has what the evaluation has led to, such as the best metric. Register it after the hooks
    that use the results of the `Evaluation`.
    """

    def __init__(
        self,
        *,
        evaluation: Evaluation,
        checkpoint: hooks.PeriodicCheckpointer,
        writers: Sequence[EventWriter],
        about: Callable[[], dict] = dict,
    ):
        """
        Args:
            evaluation: the hook that evaluates.
            checkpoint: saves after an iteration if it is time to.
            writers: write first, because a resumed run does not evaluate these weights again.
            about: returns what `model_final.pth` has in addition, see `model_file.description`.
        """
        self.evaluation = evaluation
        self.checkpoint = checkpoint
        self.writers = writers
        self.about = about

    def after_step(self):
        if self.evaluation.num_evaluated == self.trainer.iter + 1:
            self._write()
            self.checkpoint.after_step()

    def after_train(self):
        if self.trainer.iter >= self.trainer.max_iter:
            self._write()
            # As `PeriodicCheckpointer` names and writes it after the last iteration.
            about = {**self.about(), "iteration": self.trainer.max_iter - 1}
            self.checkpoint.checkpointer.save("model_final", **about)

    def _write(self) -> None:
        for writer in self.writers:
            writer.write()
