"""Converts a batch to plain values and tensors, which `torch.load` reads without pickled code."""

import logging
from typing import Any

import numpy as np
import torch
from detectron2.structures import (
    BitMasks,
    Boxes,
    Instances,
    Keypoints,
    PolygonMasks,
    RotatedBoxes,
)
from torch import Tensor

logger = logging.getLogger(__name__)

_KIND = "structure"  # the key that tells a converted structure from a dict
_WITH_TENSOR = {kind.__name__: kind for kind in (Boxes, RotatedBoxes, BitMasks, Keypoints)}
_PLAIN = (bool, int, float, str, bytes)
_MAX_DEPTH = 20


def to_plain(value: Any) -> Any:
    """Convert the inputs of a model to plain values and tensors, as `from_plain` reads them.

    Args:
        value: lists, tuples and dicts of plain values, tensors, numpy arrays and detectron2's
            `Instances`, `Boxes`, `RotatedBoxes`, `BitMasks`, `PolygonMasks` and `Keypoints`.

    Returns:
        a copy. Entries of dicts with values of another class are dropped with a warning.

    Raises:
        TypeError: a value, or an element of a list, is of another class.
    """
    if value is None or isinstance(value, Tensor):
        return value if value is None else value.detach().cpu()
    for kind in _PLAIN:  # bool before int; an enum of integers becomes an int
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return _fields(value)
    return _structure(value)


def _fields(fields: dict) -> dict:
    converted = {}
    for name, value in fields.items():
        try:
            converted[str(name)] = to_plain(value)
        except TypeError as error:
            logger.warning(f"'{name}' of the batch is not saved: {error}")
    return converted


def _structure(value: Any) -> dict:
    kind = type(value).__name__
    if isinstance(value, Instances):
        size = [int(side) for side in value.image_size]
        return {_KIND: kind, "image_size": size, "fields": _fields(value.get_fields())}
    if isinstance(value, PolygonMasks):
        return {_KIND: kind, "polygons": to_plain(value.polygons)}
    if isinstance(value, np.ndarray):
        return {_KIND: kind, "tensor": torch.from_numpy(value.copy())}
    if kind in _WITH_TENSOR and isinstance(value, _WITH_TENSOR[kind]):
        return {_KIND: kind, "tensor": value.tensor.detach().cpu()}
    raise TypeError(f"{kind} has no plain form")


def from_plain(value: Any, depth: int = 0) -> Any:
    """Build what `to_plain` converted. Tuples come back as lists.

    Raises:
        ValueError: the value is not one that `to_plain` returns.
    """
    if depth > _MAX_DEPTH:
        raise ValueError(f"the batch is nested in more than {_MAX_DEPTH} levels")
    if isinstance(value, (list, tuple)):
        return [from_plain(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    content = {k: from_plain(item, depth + 1) for k, item in value.items() if k != _KIND}
    if _KIND not in value:
        return content
    kind = value[_KIND]
    try:
        if kind == "Instances":
            return Instances(tuple(content["image_size"]), **content["fields"])
        if kind == "PolygonMasks":
            return PolygonMasks(content["polygons"])
        if kind == "ndarray":
            return content["tensor"].numpy()
        return _WITH_TENSOR[kind](content["tensor"])
    except (KeyError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
        raise ValueError(f"the batch has no valid {str(kind)[:40]}") from error
