"""Parses the yaml text of a config: plain values only, and of bounded size."""

from typing import Any

import yaml

from .errors import RunError

BASE = "_BASE_"  # detectron2's key
_MAX_VALUES = 100_000
_MAX_DEPTH = 50


def parse_config(text: str, source: str) -> dict[str, Any]:
    """The keys and values of the text of a saved config, which has no `_BASE_`.

    Args:
        text: yaml.
        source: where it is from, for messages.

    Raises:
        RunError: it is not yaml of plain values, is too large, or has a `_BASE_`.
    """
    content = parse_yaml(text, source)
    if BASE in content:
        raise RunError(
            f"{source} has a {BASE}, which is not followed here: a config that a run saves is "
            "complete and has none. Pass the OUTPUT_DIR of a run, or remove the line"
        )
    return content


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """As `parse_config`, for text that may have a `_BASE_`."""
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
