"""A checkpointer whose files are whole, and that reports how much of the model a file filled."""

from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm

from ..errors import ConfigError, RunError
from .class_rows import copy_class_rows, describe_rows, names_in_file
from .files import find_checkpoint, save_whole, tag_checkpoint
from .weight_files import load_torch_file, load_weight_file, with_model
from .weights import diagnose

# Not counted are values that the config sets, and those that older files lack and norm layers set.
_NOT_COUNTED = ("pixel_mean", "pixel_std", "running_mean", "running_var", "num_batches_tracked")


class ReportingCheckpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` that counts what it loaded and explains why a file does not fit.

    detectron2 lists the names that did not match in hundreds of lines. The list looks the same
    whether only the heads are missing, as for an ImageNet file, or everything is.

    Checkpoints are written whole or not at all, and it resumes from the newest one that is whole:
    see `files.find_checkpoint`. Folders with an address ("s3://...") are left to detectron2.
    """

    class_names: list[str] | None = None  # of the model, in order; None if they are not known
    _fits_classes = False
    _to_resume: str | None = None  # what `get_checkpoint_file` has found, until the next save
    _weights = ""  # the file that the run starts from, if it is not resumed
    _is_resumed = False  # while a file is loaded: with the states of everything, or weights only

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict:
        """Load the last checkpoint if `resume` and there is one, else the weights in `path`.

        Weights are fitted to `class_names`: see `class_rows`. A checkpoint is loaded as it is.
        """
        self._weights, self._to_resume = path, None
        self._fits_classes = not (resume and self.has_checkpoint())
        return super().resume_or_load(path, resume=resume)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict:
        """As in detectron2's `DetectionCheckpointer`.

        Raises:
            ConfigError: a checkpoint to resume from has tensors of other shapes than the model.
        """
        self._is_resumed = checkpointables is None and bool(self.checkpointables)
        return super().load(path, checkpointables)

    def save(self, name: str, **kwargs) -> None:
        """Write the model and the checkpointables to `<save_dir>/<name>.pth`, and tag it.

        Raises:
            RunError: the file could not be written. Earlier checkpoints are intact.
        """
        if not self._has_local_folder():
            super().save(name, **kwargs)
            return
        if not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content |= {key: _plain(value.state_dict()) for key, value in self.checkpointables.items()}
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        save_whole(path, content | kwargs)
        self.tag_last_checkpoint(path.name)
        self._to_resume = None

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        if self._has_local_folder():
            tag_checkpoint(Path(self.save_dir), last_filename_basename)
        else:
            super().tag_last_checkpoint(last_filename_basename)

    def has_checkpoint(self) -> bool:
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """The path of the checkpoint to resume from, the same in every process; "" without one.

        Raises:
            RunError: there are checkpoints, and all of them are damaged.
        """
        if not self._has_local_folder():
            return super().get_checkpoint_file() if super().has_checkpoint() else ""
        if self._to_resume is None:
            self._to_resume = agreed_checkpoint(self.save_dir, self._weights)
        return self._to_resume

    def _has_local_folder(self) -> bool:
        return bool(self.save_dir) and "://" not in self.save_dir

    def _load_file(self, filename: str) -> dict:
        """Read a checkpoint or weight file without executing anything in it.

        Raises:
            RunError: the file is damaged, or holds anything but arrays and plain values.
        """
        if filename.endswith((".pkl", ".pyth", ".safetensors")):
            return load_weight_file(filename)
        return super()._load_file(filename)

    def _torch_load(self, f: str):
        return with_model(load_torch_file(f), f)

    def _load_model(self, checkpoint):
        """Load as the base class does, then log `Loaded 272 of the model's 280 tensors (...)`.

        Raises:
            ConfigError: the file has weights, but none of them is a tensor of this model.
        """
        self._fit_classes(checkpoint)
        in_file = list(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        wrong_shape = {name: shapes for name, *shapes in incompatible.incorrect_shapes}
        if wrong_shape and self._is_resumed:
            name, (saved, expected) = next(iter(wrong_shape.items()))
            raise ConfigError(
                f"--resume: the checkpoint is of another model. {name} is {saved} there and "
                f"{expected} in this model. Continue with the config of the run (config.yaml), or "
                "start a new run with MODEL.WEIGHTS."
            )
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

    def _fit_classes(self, checkpoint: dict) -> None:
        """Copy the rows of the predictors by class name, unless a run is resumed."""
        in_model, in_file = self.class_names, names_in_file(checkpoint)
        if not self._fits_classes or not in_model or not in_file or in_model == in_file:
            return
        self.logger.info(describe_rows(in_file, in_model))
        checkpoint["model"] = copy_class_rows(
            checkpoint["model"], self.model.state_dict(), in_file=in_file, in_model=in_model
        )


def _plain(state):
    """A state in which numpy's numbers and arrays are Python numbers and tensors.

    torch.load would reject them with `weights_only=True`, so the file could not be resumed from.
    """
    if isinstance(state, dict):
        plain = {key: _plain(value) for key, value in state.items()}
        return type(state)(plain) if type(state) in (Counter, OrderedDict) else plain
    if type(state) in (list, tuple):
        return type(state)(map(_plain, state))
    if isinstance(state, np.generic):
        return state.item()
    return torch.from_numpy(state) if isinstance(state, np.ndarray) else state


def agreed_checkpoint(folder: str, weights: str = "") -> str:
    """`files.find_checkpoint` of the main process, in every process; "" if there is none."""
    found, error = "", ""
    if comm.is_main_process() and "://" not in folder:
        try:
            found = str(find_checkpoint(Path(folder), weights=weights) or "")
        except RunError as problem:
            error = str(problem)
    found, error = comm.all_gather((found, error))[0]
    if error:
        raise RunError(error)
    return found
