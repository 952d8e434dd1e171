"""Weight files beside the checkpoints: for use, not for resuming."""

import os
from pathlib import Path

import torch
from torch import nn


def save_weights(path: Path, model: nn.Module, **extra) -> None:
    """Write `{"model": weights, **extra}` in one step: a reader sees the old file or the new one.

    `MODEL.WEIGHTS` takes the file. Unlike a checkpoint it does not become what `--resume`
    continues from.

    Args:
        path: the file to write; its directory is made.
        model: not wrapped for distributed training.
        extra: plain Python values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    torch.save({"model": model.state_dict(), **extra}, unfinished)
    os.replace(unfinished, path)
