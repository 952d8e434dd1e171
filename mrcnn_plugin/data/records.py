"""Checks that the records of a COCO json have the keys and types that give them a meaning.

What follows may then use ids as keys of a dict, join file names to a path and print both.
"""

import reprlib
from collections.abc import Callable, Iterator
from typing import Any

_INT64 = 2**63
_ABSENT = object()

_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = _shortener.maxlong = 60


def shown(value: Any) -> str:
    """A value of a json for a message: shortened, and safe for deep nesting and odd characters."""
    return _shortener.repr(value)


def is_number(value: Any) -> bool:
    """Whether a value of a json is a finite number that a float64 can hold."""
    return type(value) in (int, float) and -1e308 <= value <= 1e308


def structure_faults(content: dict[str, list]) -> Iterator[str]:
    """One sentence per entry of a COCO json that lacks a key, or whose value has another type."""
    for section, keys in REQUIRED.items():
        records = content[section]
        objects = [(k, record) for k, record in enumerate(records) if isinstance(record, dict)]
        if len(objects) < len(records):
            for index, record in enumerate(records):
                if not isinstance(record, dict):
                    yield f"{section}[{index}] is {shown(record)}, expected an object"
        for key, fault_of in keys.items():
            for index, record in objects:
                value = record.get(key, _ABSENT)
                if type(value) is int and -_INT64 <= value < _INT64 and fault_of is not _text:
                    continue  # nearly all values of a json; the others may take longer
                fault = f"lacks {key}" if value is _ABSENT else fault_of(value)
                if fault:
                    shown_value = "" if value is _ABSENT else f".{key} is {shown(value)}, expected"
                    yield f"{section}[{index}]{shown_value} {fault}"
    for section in ("images", "categories"):
        by_type = {isinstance(r["id"], str): r["id"] for r in content[section] if _has_id(r)}
        if len(by_type) > 1:  # detectron2 sorts them
            yield (
                f"the ids of the {section} are partly text and partly numbers, such as "
                f"{shown(by_type[True])} and {shown(by_type[False])}, expected one of them"
            )


def _has_id(record: Any) -> bool:
    return isinstance(record, dict) and "id" in record


def _text(value: Any) -> str:
    """What was expected if `value` is no text that can be printed and name a file, else ""."""
    if not isinstance(value, str):
        return "text"
    if "\0" in value:
        return "text without a null character"
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, "\ud800"
        return "text that UTF-8 can encode"
    return ""


def _id(value: Any) -> str:
    return _text(value) if isinstance(value, str) else _number(value, "an integer or text")


def _name(value: Any) -> str:
    return _text(value) if isinstance(value, str) else _number(value, "text")


def _number(value: Any, expected: str) -> str:
    """Ids and names that are numbers, also 3.0, are accepted. True is none, although 1 == True."""
    usable = is_number(value) and -_INT64 <= value < _INT64
    return "" if usable else f"{expected}{' of 64 bits' if type(value) is int else ''}"


REQUIRED: dict[str, dict[str, Callable[[Any], str]]] = {
    "images": {"id": _id, "file_name": _text},
    "annotations": {"id": _id, "image_id": _id, "category_id": _id},
    "categories": {"id": _id, "name": _name},
}
