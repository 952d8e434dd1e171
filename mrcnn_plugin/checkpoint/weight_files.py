"""Reads weight files of any kind without executing anything in them."""

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ConfigError, RunError
from .pickled_arrays import PickleError
from .plain_pickle import read_plain_pickle


def load_weight_file(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a weight file as detectron2's `DetectionCheckpointer` does, but execute nothing in it.

    Args:
        path: a local file. A `.pkl` file is of the Model Zoo or of Caffe2 (Detectron, MSRA), a
            `.pyth` file is of pycls, a `.safetensors` file may have metadata, and any other is a
            file of torch.save with a state dict: on its own, or as its only one.
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
    elif path.endswith(".safetensors"):
        content = load_safetensors(path)
    else:
        content = with_model(load_torch_file(path, mmap=mmap), path)
    _dict(content["model"], path)
    return content


def with_model(content: Any, path: str) -> dict[str, Any]:
    """The content of a torch file with the state dict as `model`.

    Other programs save the state dict itself, or under another key, such as `state_dict`.

    Raises:
        RunError: there is no state dict, or more than one, or it has values that are no tensors.
    """
    content = _dict(content, path)
    if "model" not in content:
        if any(map(_is_array, content.values())):
            content = {"model": content}
        else:
            found = [name for name, value in content.items() if _is_state_dict(value)]
            if len(found) != 1:
                raise RunError(
                    f"'{path}' is not a weight file: {len(found)} of its entries are state dicts "
                    f"(found the entries {', '.join(content)[:200] or 'none'}); expected one, or "
                    "one called 'model'. Write {'model': state_dict} with torch.save"
                )
            content = {"model": content[found[0]]}
    for name, value in _dict(content["model"], path).items():
        if not _is_array(value):
            raise RunError(
                f"'{path}' is not a weight file: '{name}' is a {type(value).__name__}; expected "
                "tensors only. Write {'model': state_dict} with torch.save"
            )
    return content


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(_is_array, value.values()))


def _is_array(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, np.ndarray))


def load_safetensors(path: str | Path, *, what: str = "a weight file") -> dict[str, Any]:
    """The tensors of a `.safetensors` file as `model`, and its metadata.

    Args:
        path: a local file.
        what: what the file should be, for the message.

    Raises:
        ConfigError: the package safetensors is not installed.
        RunError: the file is damaged.
        OSError: the file cannot be read.
    """
    safetensors = import_safetensors()
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names, metadata = file.keys(), file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        raise RunError(f"'{path}' is not {what}: it is damaged ({error})") from error
    return {**{key: _from_json(text) for key, text in metadata.items()}, "model": weights}


def _from_json(text: str) -> Any:
    """A value of the metadata. Other programs write text that is no json."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def import_safetensors():
    """The optional package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise ConfigError(
            "files that end in .safetensors need the package safetensors: pip install safetensors"
        ) from error
    return safetensors


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
