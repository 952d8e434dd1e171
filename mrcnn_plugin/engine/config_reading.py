"""Reads the yaml of config files: plain values only, of bounded size, and their `_BASE_` files."""

import os
from typing import Any

import yaml
from detectron2.utils.file_io import PathManager

from ..errors import RunError

_BASE = "_BASE_"  # detectron2's key
_SUFFIXES = (".yaml", ".yml")
_MAX_BYTES = 1_000_000  # a saved config with the 1203 class names of LVIS has 40,000
_MAX_VALUES = 100_000
_MAX_DEPTH = 50
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


def parse_config(text: str, source: str) -> dict[str, Any]:
    """The keys and values of the text of a saved config, which has no `_BASE_`.

    Args:
        text: yaml.
        source: where it is from, for messages.

    Raises:
        RunError: it is not yaml of plain values, is too large, or has a `_BASE_`.
    """
    content = _parse(text, source)
    if _BASE in content:
        raise RunError(
            f"{source} has a {_BASE}, which is not followed here: a config that a run saves is "
            "complete and has none. Pass the OUTPUT_DIR of a run, or remove the line"
        )
    return content


def _read(path: str, including: list[str], follow_bases: bool, files: list[str]) -> dict:
    """`including` are the files that include this one, `files` all that have been read."""
    files.append(path)
    if os.path.realpath(path) in including:
        raise RunError(f"{files[0]}: the files named by {_BASE} include each other")
    if len(files) > _MAX_FILES:
        raise RunError(f"{files[0]}: more than {_MAX_FILES} files are named by {_BASE}")
    text = _read_text(path)
    if not follow_bases:
        return parse_config(text, path)
    content = _parse(text, path)
    bases = content.pop(_BASE, [])
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
        raise RunError(f"{path}: {_BASE} is {found}; expected the path of a .yaml file")
    return os.path.join(os.path.dirname(path), os.path.expanduser(base))


def _merge(content: dict, into: dict, path: str) -> None:
    for key, value in content.items():
        if isinstance(value, dict) and key in into:
            if not isinstance(into[key], dict):
                raise RunError(f"{path}: {key} has keys, but is a value in its {_BASE} file")
            _merge(value, into[key], path)
        else:
            into[key] = value


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            _measure(node, {})
        content = {} if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:  # its own text would quote the file
        mark = error.problem_mark
        where = f" in line {mark.line + 1}" if mark else ""
        raise RunError(
            f"{source}: this is not yaml of plain values{where}: {error.problem}"
        ) from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise RunError(f"{source}: not yaml of plain values") from error
    except RecursionError as error:
        raise RunError(f"{source} is nested too deeply; {_EXPECTED}") from error
    except _TooLargeError as error:
        raise RunError(f"{source} {error}; {_EXPECTED}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise RunError(f"{source}: expected keys and values, found {type(content).__name__}")
    return content


_EXPECTED = f"expected a config with at most {_MAX_VALUES} values in {_MAX_DEPTH} levels"


class _TooLargeError(Exception):
    """The values of a yaml would be too many. The message has no subject."""


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """(values, levels) of a yaml with its aliases written out, of which nothing is built yet.

    Ten lines, each of which names the line before nine times, mean a billion values.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1, 1
    if id(node) not in known:
        known[id(node)] = _MAX_VALUES + 1, 1  # what an alias within the node itself finds
        pairs = node.value if isinstance(node, yaml.MappingNode) else [[n] for n in node.value]
        found = [_measure(child, known) for pair in pairs for child in pair]
        known[id(node)] = (
            1 + sum(values for values, _ in found),
            1 + max((levels for _, levels in found), default=0),
        )
    values, levels = known[id(node)]
    if values > _MAX_VALUES:
        raise _TooLargeError("has too many values, or an alias that contains itself")
    if levels > _MAX_DEPTH:
        raise _TooLargeError("is nested too deeply")
    return values, levels
