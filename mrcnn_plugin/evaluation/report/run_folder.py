"""The folder of a run that somebody else may have written: what a report reads and writes there."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ...errors import RunError

_FILES = ("config.yaml", "metrics.json", "run.json", "report.html", "comparison.html")
_FOLDERS = ("inference", "datasets")
_MAX_BYTES = 2**31  # of one file; the predictions for 5000 images have some 200 MB


def check_run_folder(folder: str | Path) -> None:
    """Check that the files of a run that a report reads and writes are files in its folder.

    Raises:
        RunError: one of them is a link that leads out of the folder, is no regular file, or is too
            large to be read.
    """
    root = os.path.realpath(folder)
    for path in _entries(Path(folder)):
        real = os.path.realpath(path)
        if os.path.commonpath([root, real]) != root:
            raise RunError(
                f"{path} is a link that leads out of {folder}. A report reads and writes no file "
                "outside the run: replace the link by what it names"
            )
        info = os.stat(real) if os.path.exists(real) else None
        if info and not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
            raise RunError(f"{path} is neither a file nor a folder. Remove it from the run")
        if info and stat.S_ISREG(info.st_mode) and info.st_size > _MAX_BYTES:
            raise RunError(f"{path} has {info.st_size} bytes; expected at most {_MAX_BYTES}")


def _entries(folder: Path) -> Iterator[Path]:
    for name in _FILES:
        if os.path.lexists(folder / name):
            yield folder / name
    for name in _FOLDERS:
        if os.path.lexists(folder / name):
            yield folder / name
        for parent, folders, files in os.walk(folder / name):
            yield from (Path(parent, entry) for entry in (*folders, *files))


def check_dataset_names(cfg: CfgNode, source: str | Path) -> None:
    """Check that the names of datasets, which are also names of folders, stay in their folder.

    Raises:
        RunError: a name is an absolute path or has a `..`.
    """
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise RunError(f"{source}: {str(name)[:200]!r} is not the name of a dataset")


def is_in_image_root(dataset_dict: dict, dataset_name: str) -> bool:
    """Whether an image is a file below the image folder of its dataset.

    A `file_name` of a json can be absolute or have `..`. Datasets that other code registered
    without an `image_root` have no such limit.
    """
    root = MetadataCatalog.get(dataset_name).get("image_root")
    file = dataset_dict["file_name"]
    if not root or "://" in root:
        return True
    root = os.path.abspath(root)
    inside = os.path.commonpath([root, os.path.abspath(file)]) == root
    return inside and os.path.isfile(file)
