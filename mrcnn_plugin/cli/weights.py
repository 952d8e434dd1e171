"""mrcnn weights: convert weight files to this plugin's models, or back to detectron2's C4 model.

examples:
  mrcnn weights show output/model_best.pth
  mrcnn weights --config-file mask_rcnn_R101_C4.yaml model_final_a2914c.pkl out.pth
  mrcnn weights --config-file mask_rcnn_R101_C4.yaml --backbone resnet101.pth out.pth
  mrcnn weights --config-file CONFIG --to-detectron2 output/model_final.pth stock.pth

The input is a Model Zoo file, a checkpoint, torchvision's resnet50 or resnet101, a Detectron
(Caffe2) pickle or one of MSRA's ImageNet nets. A tensor that the model needs and the input lacks
is an error. The names of the classes are kept if they are known: the output is a model file then.
`show` prints what a file contains.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import Tensor

from ..checkpoint.class_rows import names_in_file
from ..checkpoint.model_file import ModelFile, description, read_model_file, write_model_file
from ..checkpoint.weight_files import load_weight_file
from ..checkpoint.weights import (
    TORCHVISION_CONFIG,
    check_fit,
    read_weights,
    to_detectron2,
    to_mrcnn,
)
from ..config import add_mrcnn_config
from ..engine import load_config
from ..errors import ConfigError, RunError


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mrcnn weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file",
        required=True,
        help="config of the model that the weights are for: a file or the name of an installed one",
    )
    direction = parser.add_mutually_exclusive_group()
    direction.add_argument(
        "--backbone",
        action="store_true",
        help="the input is an ImageNet net: it fills the backbone and res5 only",
    )
    direction.add_argument(
        "--to-detectron2", action="store_true", help="write k RPN scores, for detectron2's head"
    )
    parser.add_argument("input", help="the file to convert")
    parser.add_argument("output", help="the .pth or .safetensors file to write")
    parser.add_argument("opts", nargs="*", help="KEY VALUE overrides of the config")
    return parser


def read_input(path: str) -> Mapping[str, Tensor]:
    """The weights in a file.

    Raises:
        RunError: the file does not exist or is not a weight file.
    """
    try:
        return read_weights(path)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "show":
        return show(argv[1:])
    return convert(argv)


def show(argv: Sequence[str]) -> None:
    """Print what a model file or another weight file contains."""
    parser = argparse.ArgumentParser(prog="mrcnn weights show")
    parser.add_argument("file", metavar="FILE", help="a model file, or weights of another kind")
    parser.add_argument("--config", action="store_true", help="print the whole config as yaml")
    args = parser.parse_args(argv)
    if not Path(args.file).is_file():
        raise RunError(f"{args.file} does not exist")
    try:
        content = read_model_file(args.file)
    except ConfigError:
        if "config" in load_weight_file(args.file, mmap=True):
            raise
        weights = read_input(args.file)
        if args.config:
            raise RunError(f"{args.file} has weights only, no config") from None
        print(f"{args.file}: weights without config and classes")
        print(f"{_size(weights)}\nnames       {_some(list(weights))}")
        return
    print(content.config if args.config else _described(args.file, content))


def _described(path: str, content: ModelFile) -> str:
    cfg, defaults = content.cfg(), get_cfg()
    add_mrcnn_config(defaults)
    thresholds = content.score_thresholds or [None] * len(content.class_names)
    classes = [
        name if threshold is None else f"{name} (score >= {threshold:.2f})"
        for name, threshold in zip(content.class_names, thresholds)
    ]
    changes = [f"  {key} {value}" for key, value in _differences(cfg, defaults)]
    lines = (
        f"{path}: model file of mrcnn_plugin {content.version}",
        f"classes     {', '.join(classes)}",
        f"backbone    ResNet-{cfg.MODEL.RESNETS.DEPTH}, {cfg.MODEL.BACKBONE.NAME}",
        f"image size  shorter side {cfg.INPUT.MIN_SIZE_TEST}, longer side at most "
        f"{cfg.INPUT.MAX_SIZE_TEST}, {cfg.INPUT.FORMAT}",
        _size(content.weights),
        "config      these keys differ from the defaults (--config prints all):",
        *changes,
    )
    return "\n".join(lines)


def _size(weights: Mapping[str, Tensor]) -> str:
    """The line with the number of tensors and of values in them."""
    number = sum(tensor.numel() for tensor in weights.values())
    return f"tensors     {len(weights)} with {number:,} values"


def _differences(cfg: CfgNode, defaults: CfgNode, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Keys, with dots, and values that are not those of the defaults."""
    for key, value in sorted(cfg.items()):
        default = defaults.get(key)
        if isinstance(value, CfgNode) and isinstance(default, CfgNode):
            yield from _differences(value, default, f"{prefix}{key}.")
        elif value != default:
            yield f"{prefix}{key}", value


def convert(argv: Sequence[str]) -> None:
    """Convert a weight file."""
    args = argument_parser().parse_args(argv)
    weights = read_input(args.input)
    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    if args.to_detectron2:
        cfg.MODEL.RPN.HEAD_NAME = "StandardRPNHead"
    has_2k_scores = cfg.MODEL.RPN.HEAD_NAME == "MRCNNRPNHead"
    weights = to_mrcnn(weights) if has_2k_scores else to_detectron2(weights)
    fit = check_fit(weights, build_model(cfg), backbone_alone=args.backbone)

    kept = {name: weights[name] for name in fit.matched}
    about = {} if args.backbone else _about(args, cfg)
    write_model_file(args.output, kept, {"__author__": "mrcnn_plugin", **about})
    print(f"{len(fit.matched)} tensors matched and were written to {args.output}")
    if fit.missing:
        print(f"{len(fit.missing)} of the model are not in the file: {_some(fit.missing)}")
    if fit.left:
        print(f"{len(fit.left)} of the file are not in the model: {_some(fit.left)}")
    if args.backbone and "backbone.stem.conv1.norm.running_mean" in fit.matched:
        print(f"A torchvision net needs these lines in the config:\n{TORCHVISION_CONFIG}")


def _about(args: argparse.Namespace, cfg: CfgNode) -> dict:
    """What makes the converted file a model file, if the names of its classes are known."""
    content = load_weight_file(args.input, mmap=True)
    names = names_in_file(content) or list(cfg.DATASETS.CLASS_NAMES)
    if len(names) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        print("The names of the classes are not known. Pass DATASETS.CLASS_NAMES to write them.")
        return {}
    cfg.DATASETS.CLASS_NAMES = names
    thresholds = content.get("score_thresholds")
    print(f"{len(names)} classes: {_some(names)}. The file is a model file, for `mrcnn predict`")
    return description(cfg, thresholds)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
