"""Checkpoints that say how much of the model they filled; weight files beside them."""

import os
from collections import Counter
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from .weights import diagnose

# Not counted: what the config sets, and what a norm layer fills in where an older file lacks it.
_NOT_COUNTED = ("pixel_mean", "pixel_std", "running_mean", "running_var", "num_batches_tracked")


class ReportingCheckpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` that counts what it loaded and says why a file does not fit.

    detectron2 warns about the names that did not match, in a list of hundreds of lines that looks
    the same whether the heads are missing (an ImageNet file: right) or everything is (wrong).
    """

    def _load_model(self, checkpoint):
        """As in the base class; then logs `Loaded 272 of the model's 280 tensors (backbone ...)`.

        Raises:
            ValueError: the file holds weights, and not one of them is a tensor of this model.
        """
        in_file = list(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        wrong_shape = {name: shapes for name, *shapes in incompatible.incorrect_shapes}
        not_loaded = {*wrong_shape, *incompatible.missing_keys}

        names = [name for name in self.model.state_dict() if not name.endswith(_NOT_COUNTED)]
        total = Counter(name.split(".")[0] for name in names)
        loaded = Counter(name.split(".")[0] for name in names if name not in not_loaded)
        parts = ", ".join(f"{module} {loaded[module]}/{total[module]}" for module in total)
        self.logger.info(
            f"Loaded {loaded.total()} of the model's {total.total()} tensors ({parts}); "
            f"{len(incompatible.unexpected_keys)} tensors of the file have no place in the model"
        )
        why = diagnose(in_file, self.model.state_dict(), wrong_shape)
        if why:
            self.logger.warning(f"The weight file does not belong to this model: {why}")
        if in_file and not loaded:
            raise ValueError(
                "no tensor of the weight file has the name and shape of one in this model: it "
                "would train from random weights. Check MODEL.WEIGHTS and MODEL.RESNETS.DEPTH"
            )
        return incompatible


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
