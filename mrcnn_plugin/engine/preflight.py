"""Checks before the first iteration: a device that exists, data and weights that can be read."""

import difflib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlparse

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ..errors import RunError

logger = logging.getLogger(__name__)


class PreflightError(RunError):
    """Something that a run needs is not there; the message says what and how to mend it."""


def preflight_message(error: Exception) -> str:
    """The text of a `RunError`, also of one in a process that `launch` started.

    Raises:
        Exception: `error` itself, if it is something else.
    """
    if isinstance(error, RunError):
        return str(error)
    found = re.search(r"^mrcnn_plugin\.[\w.]+Error: (.*)", str(error), re.DOTALL | re.MULTILINE)
    if not found:
        raise error
    return found[1].strip()


def merge_config(cfg: CfgNode, *, file: str | None = None, opts: Sequence[str] = ()) -> None:
    """Merge a config file, or `KEY VALUE` overrides, into `cfg`.

    Raises:
        PreflightError: the file cannot be read, or a key is unknown (with the nearest ones that
            exist), or a value is of another type than the key's.
    """
    source = " ".join(opts) if file is None else (file or "no --config-file is given")
    try:
        if file is not None:
            cfg.merge_from_file(file)
        cfg.merge_from_list(list(opts))
    except (AssertionError, KeyError, ValueError, OSError, yaml.YAMLError) as error:
        text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
        raise PreflightError(f"{source}: {text}{_nearest_keys(cfg, text)}") from error


def _nearest_keys(cfg: CfgNode, text: str) -> str:
    unknown = re.search(r"Non-existent (?:config )?key: (\S+)", text)
    nearest = difflib.get_close_matches(unknown[1], list(_keys(cfg)), 2, 0.8) if unknown else []
    return f"; did you mean {' or '.join(nearest)}?" if nearest else ""


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")


def use_available_device(cfg: CfgNode) -> None:
    """Change `MODEL.DEVICE: cuda` to `cpu`, in place and with a warning, where there is no GPU."""
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning(
            f"MODEL.DEVICE is '{cfg.MODEL.DEVICE}', but torch {torch.__version__} sees no CUDA "
            "device: running on the CPU. Set MODEL.DEVICE cpu to say that this is meant."
        )
        cfg.MODEL.DEVICE = "cpu"


def check_inputs(cfg: CfgNode, *, training: bool) -> None:
    """Check that the data sets and the weights of a config can be read; weights are downloaded now.

    Args:
        cfg: a full config.
        training: True checks `DATASETS.TRAIN` too, False only `DATASETS.TEST`.

    Raises:
        PreflightError: naming the first thing that is missing and what to do.
    """
    for name in (*(cfg.DATASETS.TRAIN if training else ()), *cfg.DATASETS.TEST):
        _check_dataset(name)
    if cfg.MODEL.WEIGHTS:
        _check_weights(cfg.MODEL.WEIGHTS)


def _check_dataset(name: str) -> None:
    if name not in DatasetCatalog:
        raise PreflightError(
            f"data set '{name}' is not registered; known are: {', '.join(sorted(DatasetCatalog))}"
        )
    metadata = MetadataCatalog.get(name)
    is_on_files = metadata.get("prepared_from")  # of DATASETS.FILES; check_data writes its json
    for kind in ("image_root",) if is_on_files else ("json_file", "image_root"):
        path = metadata.get(kind)
        if path and not PathManager.exists(path):
            if is_on_files:
                raise PreflightError(f"data set '{name}': {path} does not exist")
            root = os.environ.get("DETECTRON2_DATASETS")
            raise PreflightError(
                f"data set '{name}': {path} does not exist. Built-in data sets are looked for "
                f"under the environment variable DETECTRON2_DATASETS ("
                + (f"now '{root}'" if root else "not set, so ./datasets")
                + "), laid out as docs/training.md shows"
            )


def _check_weights(path: str) -> None:
    url = urlparse(path)._replace(query="").geturl()
    try:
        found = PathManager.isfile(PathManager.get_local_path(url))
    except (OSError, ValueError) as error:  # URLError is an OSError
        raise PreflightError(
            f"MODEL.WEIGHTS '{path}' could not be fetched ({error}). Download the file by hand "
            "where there is a network and give its path, or '' to start from random weights"
        ) from error
    if not found:
        raise PreflightError(
            f"MODEL.WEIGHTS '{path}' does not exist. Give the path of a .pth or .pkl file, a "
            "detectron2:// or https:// address, or '' to start from random weights"
        )
