"""An exponential moving average of the weights, which is evaluated and saved."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn

from ...checkpoint.model_file import write_model_file
from ..distributed import unwrap


class EMAHook(HookBase):
    """Keeps `average <- d * average + (1 - d) * weights` of every floating tensor of a model.

    d is `min(decay, (1 + t) / (10 + t))` after t steps, so that random first weights soon lose
    their influence. `torch.optim.swa_utils.AveragedModel` has no such warm-up and keeps a second
    model. The average is part of the checkpoint, and becomes `<output_dir>/model_ema.pth` at the
    end.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        decay: float,
        output_dir: str,
        about: Callable[[], dict] = dict,
    ):
        """
        Args:
            model: the model in training, wrapped or not.
            decay: d in (0, 1).
            output_dir: the folder of `model_ema.pth`.
            about: returns what the file has in addition, see `model_file.description`.
        """
        self.model = unwrap(model)
        self.decay = decay
        self.file = Path(output_dir, "model_ema.pth")
        self.about = about
        self.num_steps = 0
        self.average: dict[str, Tensor] | None = None

    def before_train(self):
        if self.average is None:  # not resumed
            self.average = {name: tensor.clone() for name, tensor in self._weights().items()}

    def after_step(self):
        self.num_steps += 1
        decay = min(self.decay, (1 + self.num_steps) / (10 + self.num_steps))
        with torch.no_grad():
            for name, tensor in self._weights().items():
                self.average[name].lerp_(tensor, 1 - decay)

    def after_train(self):
        if comm.is_main_process() and self.num_steps:
            with self.applied():
                about = {**self.about(), "iteration": self.trainer.iter - 1}
                write_model_file(self.file, self.model.state_dict(), about)

    def _weights(self) -> dict[str, Tensor]:
        state = self.model.state_dict()
        return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the model has the averaged weights instead of its own."""
        if self.average is None:
            raise RuntimeError("there is no average yet: EMAHook.before_train has not run")
        weights = self._weights()
        own = {name: tensor.clone() for name, tensor in weights.items()}
        try:
            for name, tensor in weights.items():
                tensor.copy_(self.average[name])
            yield
        finally:
            for name, tensor in weights.items():
                tensor.copy_(own[name])

    def state_dict(self) -> dict:
        return {"num_steps": self.num_steps, "average": self.average} if self.average else {}

    def load_state_dict(self, state: dict) -> None:
        device = next(self.model.parameters()).device
        self.num_steps = state["num_steps"]
        self.average = {name: tensor.to(device) for name, tensor in state["average"].items()}
