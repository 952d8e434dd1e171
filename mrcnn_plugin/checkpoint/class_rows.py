"""Copies the rows of the class, box and mask predictors by class name.

A predictor has one row (or four, for boxes) per class. detectron2 loads such a tensor as a whole or
not at all: with another number of classes everything that the file knows about them is lost, and
with the same number of other classes the rows of the wrong classes are used.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from torch import Tensor

_PREDICTOR = re.compile(
    r"roi_heads\..*(?P<kind>cls_score|bbox_pred|mask_head\.predictor)\.(weight|bias)$"
)
_ROWS_PER_CLASS = {"cls_score": 1, "bbox_pred": 4, "mask_head.predictor": 1}
_SHOWN = 20  # names in the log
_CLASS_SCORES = "roi_heads.box_predictor.cls_score.bias"


def names_in_file(content: Mapping) -> list[str] | None:
    """The class names of a weight file in order; None if it does not tell.

    Model files of this project have them. A file of detectron2's Model Zoo with 80 classes has
    those of COCO.
    """
    names = [str(name) for name in content.get("class_names") or ()]
    scores = content["model"].get(_CLASS_SCORES)
    if content.get("__author__") == "Detectron2 Model Zoo" and not names:
        coco = list(MetadataCatalog.get("coco_2017_val").thing_classes)
        names = coco if scores is not None and len(scores) == len(coco) + 1 else []
    return known_names(names)


def known_names(names: Sequence[str]) -> list[str] | None:
    """`names`; None if there are none, or only the "class 0", "class 1" of unnamed classes."""
    unnamed = [f"class {i}" for i in range(len(names))]
    return None if list(names) == unnamed else list(names)


def match_names(in_file: Sequence[str], in_model: Sequence[str]) -> list[int | None]:
    """The index in the file of each class of the model; None for a class that is not in the file.

    Names match exactly, or else without regard to upper case and "_" for " ". A class of the file
    matches one class of the model.
    """
    found: list[int | None] = [None] * len(in_model)
    for key in (str, _simplified):
        free = {key(name): i for i, name in reversed([*enumerate(in_file)]) if i not in found}
        for index, name in enumerate(in_model):
            if found[index] is None:
                found[index] = free.pop(key(name), None)
    return found


def _simplified(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def copy_class_rows(
    weights: Mapping[str, Tensor | np.ndarray],
    model: Mapping[str, Tensor],
    *,
    in_file: Sequence[str],
    in_model: Sequence[str],
) -> dict[str, Tensor | np.ndarray]:
    """Weights whose predictors have the classes of the model.

    Args:
        weights: of the file.
        model: the state dict of the model, whose rows classes keep that the file does not have.
        in_file, in_model: class names in order.

    Returns:
        `weights` with other predictors. The background, the last row of the class scores, is always
        copied. Predictors that do not depend on the class are unchanged.
    """
    matched = match_names(in_file, in_model)
    ret = dict(weights)
    for name, target in model.items():
        found = _PREDICTOR.match(name)
        if not found or name not in weights:
            continue
        rows = _ROWS_PER_CLASS[found["kind"]]
        background = found["kind"] == "cls_score"
        source = torch.as_tensor(weights[name])
        if (
            source.shape[1:] == target.shape[1:]
            and len(source) == rows * len(in_file) + background
            and len(target) == rows * len(in_model) + background
        ):
            pairs = [(i, k) for i, k in enumerate(matched) if k is not None]
            pairs += [(len(in_model), len(in_file))] * background
            ret[name] = _copied(source, target.clone(), pairs, rows)
    return ret


def _copied(source: Tensor, target: Tensor, pairs: list[tuple[int, int]], rows: int) -> Tensor:
    for to, start in pairs:
        target[to * rows : (to + 1) * rows] = source[start * rows : (start + 1) * rows]
    return target


def describe_rows(in_file: Sequence[str], in_model: Sequence[str]) -> str:
    """Which classes are copied and which start anew, in one sentence."""
    matched = match_names(in_file, in_model)
    copied = [
        name if in_file[k] == name else f"{name} (from '{in_file[k]}')"
        for name, k in zip(in_model, matched)
        if k is not None
    ]
    new = [name for name, k in zip(in_model, matched) if k is None]
    return (
        f"The weight file has {len(in_file)} classes, the model {len(in_model)}. Rows of the "
        f"class, box and mask predictors are copied for {_listed(copied)}; those of {_listed(new)} "
        "start anew"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} classes ({', '.join(names[:_SHOWN])}{more})" if names else "no class"
