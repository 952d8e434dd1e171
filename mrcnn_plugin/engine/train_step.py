"""A training step with gradient accumulation that never steps on NaN or infinity."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .distributed import unwrap
from .rng import rng_state

# Below this the scaler has halved the scale tens of times in a row: every gradient overflows.
_SMALLEST_LOSS_SCALE = 1e-6


@dataclass(eq=False)
class NonFiniteStep(Exception):
    """Raised by a step that computed infinity or NaN, before the optimizer changes the weights."""

    what: str  # the first loss that is not finite, or what else is not
    losses: dict[str, float]  # of the piece of the batch in which it was found
    piece: list[dict]  # that piece, as the model accepts it
    batch: list[dict]
    rng: dict  # `rng_state` before the first forward
    iteration: int


class TrainStep(SimpleTrainer):
    """`SimpleTrainer` and `AMPTrainer` in one, for any device, that never steps on NaN or infinity.

    Every loss is checked before its backward, in every process, and every gradient before the
    optimizer changes the weights. With float16 the loss scaler checks the gradients: overflow is
    normal there, and the scaler skips the step and halves the scale.

    With `accumulate` above 1 a batch goes through the model in that many pieces, and the gradients
    of the pieces are averaged, weighted by their numbers of images, before the optimizer step. This
    is what as many GPUs with one piece each compute.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader,
        optimizer: torch.optim.Optimizer,
        *,
        amp_dtype: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        accumulate: int = 1,
    ):
        """
        Args:
            model, data_loader, optimizer: as in detectron2's `SimpleTrainer`.
            amp_dtype: the dtype of autocast; None disables it.
            scaler: scales the loss, for float16; None does not scale.
            accumulate: the number of pieces of a batch, from 1 to the images of a batch in one
                process.
        """
        super().__init__(model, data_loader, optimizer)
        self.amp_dtype = amp_dtype
        self.scaler = scaler or torch.amp.GradScaler(enabled=False)
        self.accumulate = accumulate
        self.device = next(model.parameters()).device
        self.stop_requested: Callable[[], bool] = lambda: False
        self.stop = False  # whether it was True in any process during the last step

    def run_step(self):
        """
        Raises:
            NonFiniteStep: instead of the optimizer step, in every process.
        """
        assert self.model.training, "the model was changed to eval mode"
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        rng = rng_state()
        self.optimizer.zero_grad()
        losses, problem = self._forward_backward(batch)
        problem = problem or self._problem_of_gradients(batch)
        if problem:
            what, bad_losses, piece = problem
            values = {name: float(loss.detach()) for name, loss in bad_losses.items()}
            raise NonFiniteStep(what, values, piece, batch, rng, self.iter)
        self.after_backward()
        self._write_metrics(losses, data_time)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _forward_backward(self, batch: list[dict]):
        """(losses, None), or (losses, (what, losses of the piece, piece)) if something is wrong."""
        pieces = split_batch(batch, self.accumulate)
        total = defaultdict(float)
        problem = None
        for index, piece in enumerate(pieces):
            last = index == len(pieces) - 1
            with self._gradients_exchanged(last):
                losses, what = compute_losses(self.model, piece, self.amp_dtype)
                if what:
                    problem = (what, losses, piece)
                if problem and not last:
                    break  # processes synchronize at the last piece
                if last and self._in_any_process(problem is not None):
                    return total, problem or ("a loss of another process", losses, piece)
                share = len(piece) / len(batch)
                self.scaler.scale(sum(losses.values()) * share).backward()
            for name, loss in losses.items():
                total[name] += loss.detach() * share
        if problem:
            self._in_any_process(True)
        return total, problem

    def _gradients_exchanged(self, now: bool):
        """Between processes only with the last piece."""
        if now or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def _in_any_process(self, flag: bool) -> bool:
        if comm.get_world_size() == 1:
            return flag
        flags = torch.tensor([flag, self.stop_requested()], dtype=torch.float, device=self.device)
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        flag, self.stop = (flags > 0).tolist()
        return flag

    def _problem_of_gradients(self, batch: list[dict]):
        if self.scaler.is_enabled():
            scale = self.scaler.get_scale()
            too_small = scale < _SMALLEST_LOSS_SCALE
            return (f"every gradient (loss scale {scale:g})", {}, batch) if too_small else None
        parameters = unwrap(self.model).named_parameters()  # with the names of a checkpoint
        named = [(n, p.grad) for n, p in parameters if p.grad is not None]
        if torch.isfinite(torch.nn.utils.get_total_norm([grad for _, grad in named])):
            return None
        names = [name for name, grad in named if not torch.isfinite(grad).all()]
        # The last one is nearest to the loss, so backward reached it first.
        what = f"the gradient of {names[-1]}" if names else "the norm of the gradient"
        return what, {}, batch

    def state_dict(self):
        ret = super().state_dict()
        if self.scaler.is_enabled():
            ret["grad_scaler"] = self.scaler.state_dict()
        return ret

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        if self.scaler.is_enabled() and "grad_scaler" in state_dict:
            self.scaler.load_state_dict(state_dict["grad_scaler"])


def split_batch(batch: list, pieces: int) -> list[list]:
    """At most `pieces` parts of a batch, in order, none empty, whose lengths differ by one at most.

    `split_batch([a, b, c, d, e], 2)` is `[[a, b, c], [d, e]]`.
    """
    pieces = min(pieces, len(batch))
    size, longer = divmod(len(batch), pieces)
    starts = [i * size + min(i, longer) for i in range(pieces + 1)]
    return [batch[begin:end] for begin, end in pairwise(starts)]


def compute_losses(
    model: nn.Module, piece: list[dict], amp_dtype: torch.dtype | None
) -> tuple[dict[str, Tensor], str | None]:
    """The losses of some images, and which of them is not finite, if any.

    detectron2's RPN raises `FloatingPointError` when it predicts NaN. Then there are no losses.
    """
    device = next(model.parameters()).device.type
    try:
        with torch.autocast(device, dtype=amp_dtype, enabled=amp_dtype is not None):
            losses = model(piece)
    except FloatingPointError as error:
        return {}, f"the prediction of the RPN (detectron2: {error})"
    return losses, first_nonfinite(losses)


def first_nonfinite(losses: dict[str, Tensor]) -> str | None:
    """The first loss that is infinite or NaN, in the order of computation.

    The RPN is computed first, but its losses come last in detectron2's dict.
    """
    if torch.isfinite(torch.stack([loss.detach().float() for loss in losses.values()])).all():
        return None
    in_order = sorted(losses, key=lambda name: "rpn" not in name)
    return next(name for name in in_order if not torch.isfinite(losses[name]))
