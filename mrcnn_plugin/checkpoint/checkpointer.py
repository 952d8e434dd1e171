"""A checkpointer that reports how much of the model a file filled, and atomic weight files."""

import os
from collections import Counter
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from ..errors import ConfigError
from .weights import diagnose

# Not counted are values that the config sets, and those that older files lack and norm layers set.
_NOT_COUNTED = ("pixel_mean", "pixel_std", "running_mean", "running_var", "num_batches_tracked")


class ReportingCheckpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` that counts what it loaded and explains why a file does not fit.

    detectron2 lists the names that did not match in hundreds of lines. The list looks the same
    whether only the heads are missing, as for an ImageNet file, or everything is.
    """

    def _load_model(self, checkpoint):
        """Load as the base class does, then log `Loaded 272 of the model's 280 tensors (...)`.

        Raises:
            ConfigError: the file has weights, but none of them is a tensor of this model.
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
            raise ConfigError(
                "no tensor of the weight file has the name and shape of one in this model, which "
                "would train from random weights. Check MODEL.WEIGHTS and MODEL.RESNETS.DEPTH."
            )
        return incompatible


def save_weights(path: Path, model: nn.Module, **extra) -> None:
    """Write `{"model": weights, **extra}` atomically, so that readers never see half a file.

    `MODEL.WEIGHTS` accepts the file. `--resume` does not continue from it.

    Args:
        path: the file to write. Its directory is created.
        model: a model that is not wrapped for distributed training.
        extra: plain Python values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    torch.save({"model": model.state_dict(), **extra}, unfinished)
    os.replace(unfinished, path)
