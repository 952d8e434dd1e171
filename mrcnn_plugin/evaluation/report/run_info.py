"""Command and versions of a run, saved in `OUTPUT_DIR/run.json` for the report."""

import json
import platform
import shlex
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path

import detectron2
import numpy
import torch
import torchvision
from detectron2.config import CfgNode

from ...data.statistics import read_statistics
from ...errors import RunError

FILE_NAME = "run.json"


def write_run_info(cfg: CfgNode) -> None:
    """Write `run.json`, and `config.yaml` unless it exists, into `OUTPUT_DIR`."""
    info = {
        "command": shlex.join(["python", *sys.argv]),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
    }
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.yaml").exists():
        (folder / "config.yaml").write_text(cfg.dump())
    (folder / FILE_NAME).write_text(json.dumps(info, indent=1))


def read_run_info(folder: str | Path) -> dict:
    """Read what `write_run_info` wrote. Values are empty if there is no `run.json`.

    Raises:
        RunError: the file is damaged.
    """
    file = Path(folder, FILE_NAME)
    info = {"command": "", "started": "", "versions": {}}
    try:
        found = json.loads(file.read_text()) if file.exists() else {}
        if not isinstance(found, dict):
            raise TypeError(f"it holds a {type(found).__name__}")
        info |= {key: type(empty)(found[key]) for key, empty in info.items() if key in found}
        if info["versions"]:
            info["versions"] = {"device": "", **info["versions"]}
    except (ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{file} is damaged. Remove it to build the report without it") from error
    return info


def statistics_of(cfg: CfgNode) -> dict[str, dict]:
    """Statistics by dataset, of those datasets of a config whose check has saved them."""
    names = dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    found = {name: read_statistics(cfg.OUTPUT_DIR, name) for name in names}
    return {name: statistics.summary() for name, statistics in found.items() if statistics}


def versions() -> dict[str, str]:
    """Versions of Python, torch, detectron2 and this package, and the device."""
    try:
        own = metadata.version("mrcnn_plugin")
    except metadata.PackageNotFoundError:
        own = "not installed"
    cuda = torch.cuda.is_available()
    return {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "detectron2": detectron2.__version__,
        "mrcnn_plugin": own,
        "numpy": numpy.__version__,
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {platform.machine()}",
    }
