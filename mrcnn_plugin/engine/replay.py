"""Saves a step whose loss or gradient is not finite, and computes it again later."""

from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ..checkpoint.weight_files import load_torch_file
from ..config_text import parse_config
from ..errors import RunError
from ..precision import amp_dtype_of
from .distributed import unwrap
from .plain_batch import from_plain, to_plain
from .rng import set_rng_state
from .train_step import NonFiniteStep, compute_losses, split_batch

# Buffers that detectron2's models do not save, because the config sets them.
_NOT_SAVED = {"pixel_mean", "pixel_std"}


class NonFiniteError(RunError, FloatingPointError):
    """A loss or gradient was infinite or NaN. The weights are those before the step."""


def nonfinite_error(step: NonFiniteStep, cfg: CfgNode, model: nn.Module) -> NonFiniteError:
    """Save a failed step under `OUTPUT_DIR/nonfinite/`; returns the error to raise.

    Args:
        step: what `TrainStep` raised.
        cfg: the config of the run.
        model: the model in training, wrapped or not.
    """
    file = save_step(step, cfg, model)
    losses = ", ".join(f"{name} {value:.4g}" for name, value in step.losses.items())
    images = "\n    ".join(image.get("file_name", "(no file)") for image in step.piece)
    return NonFiniteError(
        f"iteration {step.iteration}: {step.what} is not finite"
        + (f" ({losses})" if losses else "")
        + ". The step was not taken.\n"
        f"  images of the batch:\n    {images}\n"
        f"  last good checkpoint: {_last_checkpoint(cfg)}\n"
        f"  compute it again: mrcnn replay {file}\n"
        "  common causes: a learning rate too high for the batch (--auto-scale-lr), no warm-up "
        "(SOLVER.WARMUP_ITERS), wrong boxes in the data; SOLVER.CLIP_GRADIENTS.ENABLED helps"
    )


def save_step(step: NonFiniteStep, cfg: CfgNode, model: nn.Module) -> Path:
    """Write the model, the batch and the generators' states as they were before the step.

    The file holds tensors and plain values only, so that reading it executes nothing.
    """
    folder = Path(cfg.OUTPUT_DIR, "nonfinite")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"iteration_{step.iteration:07d}_rank{comm.get_rank()}.pth"
    weights = {name: tensor.cpu() for name, tensor in unwrap(model).state_dict().items()}
    content = {
        "what": step.what,
        "losses": step.losses,
        "batch": to_plain(step.batch),
        "rng": step.rng,
        "iteration": step.iteration,
    }
    torch.save({**content, "model": weights, "config": cfg.dump()}, file)
    return file


def _last_checkpoint(cfg: CfgNode) -> str:
    tag = Path(cfg.OUTPUT_DIR, "last_checkpoint")
    if tag.exists() and tag.read_text().strip():
        return str(Path(cfg.OUTPUT_DIR, tag.read_text().strip()))
    return f"none yet; it began from {cfg.MODEL.WEIGHTS or 'random weights'}"


@dataclass
class Replay:
    """The result of `replay`."""

    iteration: int
    what: str | None  # the loss or gradient that is not finite; None if all are finite
    losses: list[dict[str, float]]  # of each piece of the batch, up to the first failing one
    module: str | None  # the first module with an output that is not finite


def replay(file: str | Path, device: str | None = None) -> Replay:
    """Compute a saved step again, with the same weights, images and random numbers.

    Args:
        file: one of `OUTPUT_DIR/nonfinite/`. Nothing in it is executed.
        device: the device to compute on. None uses the device of the run, or the CPU if this
            machine does not have it.

    Raises:
        RunError: the file cannot be read or is not a saved step.
    """
    saved = _load_step(file)
    cfg = CfgNode(parse_config(saved["config"], f"The config in '{file}'"))
    model = _build(cfg, device, file)
    _load_weights(model, saved["model"], file)
    amp_dtype = amp_dtype_of(cfg, model.device)

    nonfinite_modules = _watch(model)
    try:
        set_rng_state(saved["rng"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise RunError(f"'{file}' is not a saved step: its random state is damaged") from error
    losses = []
    with EventStorage(saved["iteration"]):
        for piece in split_batch(saved["batch"], cfg.SOLVER.ACCUMULATE):
            values, what = compute_losses(model, piece, amp_dtype)
            losses.append({name: float(value.detach()) for name, value in values.items()})
            if what:
                return Replay(saved["iteration"], what, losses, next(iter(nonfinite_modules), None))
            sum(values.values()).backward()
    bad = [n for n, p in model.named_parameters() if _nonfinite(p.grad)]
    return Replay(saved["iteration"], f"the gradient of {bad[-1]}" if bad else None, losses, None)


def _load_step(file: str | Path) -> dict:
    try:
        saved = load_torch_file(file, what="a saved step of this version of the package")
    except OSError as error:
        raise RunError(
            f"'{file}' does not exist or cannot be read ({error.strerror}). Pass a file of "
            "OUTPUT_DIR/nonfinite/, which a run writes if a loss is not finite."
        ) from error
    kinds = {"config": str, "model": dict, "batch": list, "rng": dict, "iteration": int}
    if not isinstance(saved, dict) or not all(
        isinstance(saved.get(key), kind) for key, kind in kinds.items()
    ):
        raise RunError(f"'{file}' is not a saved step: expected a file of OUTPUT_DIR/nonfinite/")
    try:
        saved["batch"] = from_plain(saved["batch"])
        if not saved["batch"] or not all(isinstance(image, dict) for image in saved["batch"]):
            raise ValueError("its batch has no images")
    except ValueError as error:
        raise RunError(f"'{file}' is not a saved step: {error}") from error
    return saved


def _build(cfg: CfgNode, device: str | None, file: str | Path) -> nn.Module:
    try:
        if device or not torch.cuda.is_available():
            cfg.MODEL.DEVICE = device or "cpu"
        cfg.MODEL.WEIGHTS = ""
        return build_model(cfg).train()
    except (AttributeError, KeyError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise RunError(
            f"The model of '{file}' cannot be built from its config "
            f"({type(error).__name__}: {error}). Use the version of this package, and the "
            "projects, that wrote the file."
        ) from error


def _load_weights(model: nn.Module, weights: dict, file: str | Path) -> None:
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # shapes
        raise RunError(f"The weights of '{file}' do not fit the model of its config") from error
    wrong = [name for name in missing if name not in _NOT_SAVED] + unexpected
    if wrong:
        raise RunError(
            f"The weights of '{file}' do not fit the model of its config: {len(wrong)} tensors are "
            f"missing or unexpected, among them {wrong[0]}. Use the version of this package that "
            "wrote the file."
        )


def _watch(model: nn.Module) -> list[str]:
    """A list that is filled, during a forward, with the modules whose output is not finite.

    A module comes before the modules that contain it, because its forward ends first.
    """
    names = []
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: (
                names.append(name) if _nonfinite(output) else None
            )
        )
    return names


def _nonfinite(value) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point() and not bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, (list, tuple)) and any(map(_nonfinite, value))
