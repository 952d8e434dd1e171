"""Converts weights of other projects to this plugin's models, and back.

read_weights(path) -> {name: tensor}       reads any known file, under detectron2's names
to_mrcnn / to_detectron2                   convert the RPN's scores, the only tensors that differ
check_fit(weights, model)                  reports what matched, or explains why it does not
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from torch import Tensor, nn

from ..errors import ConfigError
from .weight_files import load_weight_file

_SCORES = "proposal_generator.rpn_head.objectness_logits"
# Where a C4 model has the parts of a bare net. res5 is in the heads.
_ROOTS = {
    **dict.fromkeys(("stem", "res2", "res3", "res4"), "backbone"),
    **dict.fromkeys(("res5", "mask_head"), "roi_heads"),
    **dict.fromkeys(("cls_score", "bbox_pred"), "roi_heads.box_predictor"),
}

# Config lines that a torchvision backbone needs, as detectron2's defaults differ.
TORCHVISION_CONFIG = """INPUT: {FORMAT: "RGB"}
MODEL:
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  RESNETS: {STRIDE_IN_1X1: False}"""


def read_weights(path: str) -> dict[str, Tensor]:
    """Read a weight file into tensors under detectron2's names.

    It reads checkpoints of detectron2 and this plugin, Model Zoo files, state dicts of
    torchvision's `resnet50` and `resnet101`, Detectron's Caffe2 pickles and MSRA's ImageNet nets.

    Args:
        path: a file that `load_weight_file` reads. Nothing in it is executed.

    Raises:
        ConfigError: the file has no weights of a known kind.
        RunError: the file is damaged, or holds anything but arrays and plain values.
        OSError: the file cannot be read.
    """
    weights = load_weight_file(path)["model"]
    weights = {
        name: torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value)
        for name, value in weights.items()
        if isinstance(value, (np.ndarray, Tensor)) and not name.endswith("_momentum")
    }
    if "conv1_w" in weights:  # Caffe2: Detectron and MSRA
        renamed, _ = convert_c2_detectron_names(weights)
        return _with_roots(renamed)
    if "layer1.0.conv1.weight" in weights:  # torchvision
        return _with_roots({_from_torchvision(name): value for name, value in weights.items()})
    if any(name.startswith(("backbone.", "roi_heads.")) for name in weights):
        return weights
    raise ConfigError(
        f"{path} has no weights of a known kind. Its first names are {list(weights)[:3]}; "
        "expected detectron2, torchvision resnet, Detectron (Caffe2) or MSRA ImageNet names."
    )


def _from_torchvision(name: str) -> str:
    """`layer3.5.downsample.0.weight` -> `res4.5.shortcut.weight`, `bn1` -> `conv1.norm`, ..."""
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    return re.sub(r"bn(\d)\.", r"conv\1.norm.", name)


def _with_roots(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a bare net to their names in a C4 model."""

    def rooted(name):
        root = _ROOTS.get(name.split(".")[0])
        return f"{root}.{name}" if root else name

    return {rooted(name): value for name, value in weights.items()}


def to_mrcnn(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the RPN's k scores to 2k without changing the proposals.

    Our head returns `object - background`, so the background channels, which come first, become 0
    and the object channels get the old scores. Weights with 2k scores are returned unchanged.
    """
    converted = dict(weights)
    if _scores_per_anchor(weights) == 1:
        for kind in ("weight", "bias"):
            scores = weights[f"{_SCORES}.{kind}"]
            converted[f"{_SCORES}.{kind}"] = torch.cat([torch.zeros_like(scores), scores])
    return converted


def to_detectron2(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the RPN's 2k scores to k log-odds, object minus background, for detectron2's head."""
    converted = dict(weights)
    if _scores_per_anchor(weights) == 2:
        for kind in ("weight", "bias"):
            background, objects = weights[f"{_SCORES}.{kind}"].chunk(2)
            converted[f"{_SCORES}.{kind}"] = objects - background
    return converted


def _scores_per_anchor(weights: Mapping[str, Tensor]) -> int:
    """1 for k scores, 2 for 2k scores, 0 for a file without an RPN. There are 4k deltas."""
    if f"{_SCORES}.bias" not in weights:
        return 0
    deltas = weights["proposal_generator.rpn_head.anchor_deltas.bias"]
    return 4 * len(weights[f"{_SCORES}.bias"]) // len(deltas)


@dataclass
class Fit:
    """How weights fit a model.

    Attributes:
        matched: names with the right shape.
        missing: names of the model that the weights lack.
        left: names of the weights that are not in the model.
        wrong_shape: name -> (shape in the weights, shape in the model).
    """

    matched: list[str]
    missing: list[str]
    left: list[str]
    wrong_shape: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def check_fit(weights: Mapping[str, Tensor], model: nn.Module, *, backbone_alone: bool) -> Fit:
    """Compare weights with a model's state dict.

    Args:
        weights: names and tensors, as of `read_weights`.
        model: a built model.
        backbone_alone: if True, only the backbone and res5 are needed (an ImageNet file).

    Raises:
        ConfigError: a needed tensor is missing or has another shape. The message explains why, as
            far as names and shapes tell.
    """
    target = {n: t for n, t in model.state_dict().items() if not n.startswith("pixel_")}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    fit = Fit([], [], [name for name in weights if name not in target], {})
    for name, tensor in target.items():
        if name not in weights:
            # Older nets have their statistics folded into scale and shift.
            if not name.endswith(statistics):
                fit.missing.append(name)
        elif weights[name].shape != tensor.shape:
            fit.wrong_shape[name] = (tuple(weights[name].shape), tuple(tensor.shape))
        else:
            fit.matched.append(name)
    needed = ("backbone.", "roi_heads.res5.") if backbone_alone else ("",)
    failed = [n for n in (*fit.missing, *fit.wrong_shape) if n.startswith(needed)]
    if failed:
        why = diagnose(weights, target, fit.wrong_shape) or "the names are of another kind of model"
        raise ConfigError(
            f"{len(failed)} of {len(target)} tensors do not fit, the first is {failed[0]}: {why}"
        )
    return fit


def diagnose(
    weights: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    wrong_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
) -> str:
    """Explain why weights do not fit a model's state dict; "" if no known reason applies.

    Args:
        weights, target: names (and tensors) of the file and of the model.
        wrong_shape: name -> (shape in the weights, shape in the model).
    """
    reasons = []
    if any("fpn_lateral" in n for n in weights) and not any("fpn_lateral" in n for n in target):
        reasons.append("the weights are of a feature pyramid (FPN) model, this model is not one")
    in_file, in_model = _num_blocks(weights), _num_blocks(target)
    if in_file and in_model and in_file != in_model:
        reasons.append(
            f"res4 has {in_file} blocks in the weights and {in_model} in the model: set "
            "MODEL.RESNETS.DEPTH (6 blocks: 50, 23: 101, 36: 152)"
        )
    scores = wrong_shape.get("roi_heads.box_predictor.cls_score.bias")
    if scores:
        reasons.append(
            f"the weights have {scores[0][0] - 1} classes and the model {scores[1][0] - 1}: set "
            "MODEL.ROI_HEADS.NUM_CLASSES, or train the new classes on from here"
        )
    if f"{_SCORES}.bias" in wrong_shape:
        reasons.append(
            "the RPN heads differ (k or 2k scores): set MODEL.RPN.HEAD_NAME, or convert the file "
            "with mrcnn weights"
        )
    return "; ".join(reasons)


def _num_blocks(names) -> int:
    found = [re.search(r"res4[._](\d+)[._]", name) for name in names]  # Caffe2 has underscores
    return 1 + max((int(match[1]) for match in found if match), default=-1)
