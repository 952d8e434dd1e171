"""Reads the yaml of config files: plain values only, of bounded size, and their `_BASE_` files."""

import os
from typing import Any

from detectron2.utils.file_io import PathManager

from ..config_text import BASE, parse_config, parse_yaml
from ..errors import RunError

_SUFFIXES = (".yaml", ".yml")
_MAX_BYTES = 1_000_000  # a saved config with the 1203 class names of LVIS has 40,000
_MAX_FILES = 50


def read_config_file(path: str, *, follow_bases: bool) -> dict[str, Any]:
    """The keys and values of a config file, on top of those of its `_BASE_` files.

    Args:
        path: a path or an address. A `_BASE_` is a path of a .yaml file, or a list of them. A
            relative one is relative to the file that names it.
        follow_bases: False raises if there is a `_BASE_`. It is for files that somebody else may
            have written, which would otherwise choose what is read on this machine.

    Raises:
        RunError: a file cannot be read, is not yaml of plain values, or is too large, or a `_BASE_`
            may not be followed.
    """
    return _read(path, [], follow_bases, [])


def _read(path: str, including: list[str], follow_bases: bool, files: list[str]) -> dict:
    """`including` are the files that include this one, `files` all that have been read."""
    files.append(path)
    if os.path.realpath(path) in including:
        raise RunError(f"{files[0]}: the files named by {BASE} include each other")
    if len(files) > _MAX_FILES:
        raise RunError(f"{files[0]}: more than {_MAX_FILES} files are named by {BASE}")
    text = _read_text(path)
    if not follow_bases:
        return parse_config(text, path)
    content = parse_yaml(text, path)
    bases = content.pop(BASE, [])
    merged: dict = {}
    for base in bases if isinstance(bases, list) else [bases]:
        found = _read(_base_path(base, path), [*including, os.path.realpath(path)], True, files)
        _merge(found, merged, path)
    _merge(content, merged, path)
    return merged


def _read_text(path: str) -> str:
    if not PathManager.isfile(path):
        raise RunError(f"{path} does not exist or is no file")
    try:
        with PathManager.open(path, "r") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is not a text file") from error
    if len(text) > _MAX_BYTES:
        raise RunError(f"{path} has more than {_MAX_BYTES} characters; a config is smaller")
    return text


def _base_path(base: Any, path: str) -> str:
    if not isinstance(base, str) or "://" in base or not base.endswith(_SUFFIXES):
        found = f"'{base[:200]}'" if isinstance(base, str) else f"a {type(base).__name__}"
        raise RunError(f"{path}: {BASE} is {found}; expected the path of a .yaml file")
    return os.path.join(os.path.dirname(path), os.path.expanduser(base))


def _merge(content: dict, into: dict, path: str) -> None:
    for key, value in content.items():
        if isinstance(value, dict) and key in into:
            if not isinstance(into[key], dict):
                raise RunError(f"{path}: {key} has keys, but is a value in its {BASE} file")
            _merge(value, into[key], path)
        else:
            into[key] = value
