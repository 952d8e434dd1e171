"""Finds the config files that are installed with the package. Imports nothing heavy."""

from difflib import get_close_matches
from pathlib import Path

from .errors import RunError

_PACKAGE = Path(__file__).resolve().parent


def get_config_file(name: str) -> str:
    """The path of a config file of this project, installed or in a checkout.

    Args:
        name: a path relative to `configs/`, such as "mask_rcnn_R101_C4.yaml" or
            "lazy/mask_rcnn_R101_C4.py".

    Raises:
        RunError: there is no such file.
    """
    # A wheel has the files inside the package, a checkout next to it.
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if (folder / name).is_file():
            return str(folder / name)
    near = get_close_matches(name, names := config_names(), n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Expected one of {', '.join(names)}."
    raise RunError(f"mrcnn_plugin has no config file '{name}'. {hint}")


def config_names() -> list[str]:
    """The names that `get_config_file` accepts, sorted."""
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if folder.is_dir():
            files = [*folder.rglob("*.yaml"), *folder.rglob("*.py")]
            return sorted(file.relative_to(folder).as_posix() for file in files)
    return []
