"""Reads weight files of any kind without executing anything in them."""

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import RunError
from .pickled_arrays import PickleError
from .plain_pickle import read_plain_pickle


def load_weight_file(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a weight file as detectron2's `DetectionCheckpointer` does, but execute nothing in it.

    Args:
        path: a local file. A `.pkl` file is of the Model Zoo or of Caffe2 (Detectron, MSRA), a
            `.pyth` file is of pycls, and any other is a file of torch.save.
        mmap: whether tensors of torch files are read when they are first used.

    Returns:
        a dict with `model`, which is {name: tensor or numpy array}, and what else the file holds.
        For Caffe2 and pycls it has `__author__` and `matching_heuristics`, which make detectron2
        translate their names.

    Raises:
        RunError: the file is damaged, or holds anything but arrays and plain values.
        OSError: the file cannot be read.
    """
    path = str(path)
    if path.endswith(".pkl"):
        try:
            content = _with_author(_dict(read_plain_pickle(path), path), path)
        except PickleError as error:
            raise RunError(f"'{path}' is not a weight file: it {error}") from error
    elif path.endswith(".pyth"):
        content = _of_pycls(_dict(load_torch_file(path, mmap=mmap), path), path)
    else:
        content = _dict(load_torch_file(path, mmap=mmap), path)
        content = content if "model" in content else {"model": content}
    _dict(content["model"], path)
    return content


def load_torch_file(path: str | Path, *, mmap: bool = False, what: str = "a weight file") -> Any:
    """`torch.load` with `weights_only=True`, on the CPU, with an error of one sentence.

    Args:
        path: a file of torch.save, in its zip format or its old one.
        mmap: whether tensors of the zip format are read when they are first used.
        what: what the file should be, for the message.

    Raises:
        RunError: the file is not one of torch.save, is damaged, or holds Python objects.
        OSError: the file cannot be read.
    """
    is_zip = zipfile.is_zipfile(path)
    try:
        if is_zip:
            _check_size(path, what)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zip)
    except (OSError, RunError):
        raise
    except Exception as error:  # each kind of damage raises another; torch advises weights_only
        found = re.search(r"(?:global:|unsupported) GLOBAL ([\w.]{1,80})", str(error))
        why = (
            f"names the Python object '{found[1]}'. Nothing was executed. Expected tensors and "
            "plain values"
            if found
            else "holds Python objects, is damaged, or is no file of torch.save"
        )
        raise RunError(f"'{path}' is not {what}: it {why}") from error


def _check_size(path: str | Path, what: str) -> None:
    """torch.save stores without compression. A file of a kilobyte could declare gigabytes."""
    with zipfile.ZipFile(path) as archive:
        declared = sum(record.file_size for record in archive.infolist())
    if declared > (size := os.path.getsize(path)):
        raise RunError(
            f"'{path}' is not {what}: it has {size} bytes and declares {declared} bytes of tensors"
        )


def _with_author(content: dict, path: str) -> dict:
    if "model" in content and "__author__" in content:
        return content
    blobs = _dict(content.get("blobs", content), path)
    weights = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _of_pycls(content: dict, path: str) -> dict:
    state = _dict(content.get("model_state"), path)
    weights = {n: value for n, value in state.items() if not n.endswith("num_batches_tracked")}
    return {"model": weights, "__author__": "pycls", "matching_heuristics": True}


def _dict(content: Any, path: str) -> dict[str, Any]:
    """`content`, if it is a dict with names."""
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise RunError(
            f"'{path}' is not a weight file: it holds a {type(content).__name__}; expected a dict "
            "of names and tensors"
        )
    return content
