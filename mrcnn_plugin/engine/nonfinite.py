"""The end of a run on NaN or infinity: what is said, the file that is left, the step again."""

from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from .rng import set_rng_state
from .train_step import NonFiniteStep, forward, split


class NonFiniteError(FloatingPointError):
    """A loss or gradient was infinite or NaN; the weights are those before the step."""


class StepRecorder:
    """Saves a step that went wrong and stops the run with everything one needs to look into it."""

    def __init__(self, cfg: CfgNode, model: nn.Module):
        """
        Args:
            cfg: the config of the run; files go to `OUTPUT_DIR/nonfinite/`.
            model: the model in training, wrapped or not.
        """
        self.cfg = cfg
        self.model = getattr(model, "module", model)

    def stop(self, step: NonFiniteStep) -> None:
        """
        Raises:
            NonFiniteError: always.
        """
        file = self.save(step)
        losses = ", ".join(f"{name} {value:.4g}" for name, value in step.losses.items())
        images = "\n    ".join(image.get("file_name", "(no file)") for image in step.piece)
        raise NonFiniteError(
            f"iteration {step.iteration}: {step.what} is not finite"
            + (f" ({losses})" if losses else "")
            + ". The step was not taken.\n"
            f"  images of the batch:\n    {images}\n"
            f"  last good checkpoint: {self._last_checkpoint()}\n"
            f"  see it again: mrcnn replay {file}\n"
            "  common causes: a learning rate too high for the batch (--auto-scale-lr), no warm-up "
            "(SOLVER.WARMUP_ITERS), faulty boxes in the data; SOLVER.CLIP_GRADIENTS.ENABLED helps"
        )

    def save(self, step: NonFiniteStep) -> Path:
        """Write the model, the batch and the generators' states as they were before the step."""
        folder = Path(self.cfg.OUTPUT_DIR, "nonfinite")
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"iteration_{step.iteration:07d}_rank{comm.get_rank()}.pth"
        model = {name: tensor.cpu() for name, tensor in self.model.state_dict().items()}
        torch.save({**vars(step), "model": model, "config": self.cfg.dump()}, file)
        return file

    def _last_checkpoint(self) -> str:
        tag = Path(self.cfg.OUTPUT_DIR, "last_checkpoint")
        if tag.exists() and tag.read_text().strip():
            return str(Path(self.cfg.OUTPUT_DIR, tag.read_text().strip()))
        return f"none yet; it began from {self.cfg.MODEL.WEIGHTS or 'random weights'}"


@dataclass
class Replay:
    """What `replay` saw."""

    iteration: int
    what: str | None  # the loss that is not finite, or a parameter's gradient; None: nothing
    losses: list[dict[str, float]]  # of each piece of the batch, up to the first bad one
    module: str | None  # the first module with an output that is not finite


def amp_dtype_of(cfg: CfgNode, device: torch.device) -> torch.dtype | None:
    """What `SOLVER.AMP.ENABLED` computes in: float16 on GPUs, bfloat16 on CPUs; None: no AMP."""
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def replay(file: str | Path, device: str | None = None) -> Replay:
    """Compute a recorded step again, from the same weights, images and random draws.

    Args:
        file: one that a run left in `OUTPUT_DIR/nonfinite/`. It is a pickle: open your own only.
        device: where to compute; None: where the run did, or on the CPU if that is not here.
    """
    saved = torch.load(file, map_location="cpu", weights_only=False)
    cfg = CfgNode.load_cfg(saved["config"])
    if device or not torch.cuda.is_available():
        cfg.MODEL.DEVICE = device or "cpu"
    cfg.MODEL.WEIGHTS = ""
    model = build_model(cfg).train()
    model.load_state_dict(saved["model"], strict=False)  # pixel_mean is not in a state_dict
    amp_dtype = amp_dtype_of(cfg, model.device)

    seen = _watch(model)
    set_rng_state(saved["rng"])
    losses = []
    with EventStorage(saved["iteration"]):
        for piece in split(saved["batch"], cfg.SOLVER.ACCUMULATE):
            values, what = forward(model, piece, amp_dtype)
            losses.append({name: float(value.detach()) for name, value in values.items()})
            if what:
                return Replay(saved["iteration"], what, losses, next(iter(seen), None))
            sum(values.values()).backward()
    bad = [n for n, p in model.named_parameters() if _nonfinite(p.grad)]
    return Replay(saved["iteration"], f"the gradient of {bad[-1]}" if bad else None, losses, None)


def _watch(model: nn.Module) -> list[str]:
    """A list that fills, during a forward, with the names of modules that put out NaN or infinity.

    A module without children comes before the one it belongs to, for it ends first.
    """
    seen = []
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: (
                seen.append(name) if _nonfinite(output) else None
            )
        )
    return seen


def _nonfinite(value) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point() and not bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, (list, tuple)) and any(map(_nonfinite, value))
