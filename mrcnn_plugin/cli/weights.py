"""mrcnn weights: convert weight files to this plugin's models, or back to detectron2's C4 model.

examples:
  mrcnn weights --config-file mask_rcnn_R101_C4.yaml model_final_a2914c.pkl out.pth
  mrcnn weights --config-file mask_rcnn_R101_C4.yaml --backbone resnet101.pth out.pth
  mrcnn weights --config-file CONFIG --to-detectron2 output/model_final.pth stock.pth

The input is a Model Zoo file, a checkpoint, torchvision's resnet50 or resnet101, a Detectron
(Caffe2) pickle or one of MSRA's ImageNet nets. A tensor that the model needs and the input lacks
is an error.
"""

import argparse
from collections.abc import Mapping, Sequence

import torch
from detectron2.modeling import build_model
from torch import Tensor, nn

from ..checkpoint.weights import (
    TORCHVISION_CONFIG,
    check_fit,
    read_weights,
    to_detectron2,
    to_mrcnn,
)
from ..engine import load_config
from ..errors import RunError


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
    parser.add_argument("output", help="the .pth file to write, for MODEL.WEIGHTS")
    parser.add_argument("opts", nargs="*", help="KEY VALUE overrides of the config")
    return parser


def target_model(args: argparse.Namespace) -> tuple[nn.Module, bool]:
    """The model to convert to, and whether its RPN has 2k scores."""
    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    if args.to_detectron2:
        cfg.MODEL.RPN.HEAD_NAME = "StandardRPNHead"
    return build_model(cfg), cfg.MODEL.RPN.HEAD_NAME == "MRCNNRPNHead"


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
    args = argument_parser().parse_args(argv)
    weights = read_input(args.input)
    model, has_2k_scores = target_model(args)
    weights = to_mrcnn(weights) if has_2k_scores else to_detectron2(weights)
    fit = check_fit(weights, model, backbone_alone=args.backbone)

    kept = {name: weights[name] for name in fit.matched}
    try:
        torch.save({"model": kept, "__author__": "mrcnn_plugin"}, args.output)
    except (OSError, RuntimeError) as error:
        raise RunError(f"{args.output} cannot be written: {error}") from error
    print(f"{len(fit.matched)} tensors matched and were written to {args.output}")
    if fit.missing:
        print(f"{len(fit.missing)} of the model are not in the file: {_some(fit.missing)}")
    if fit.left:
        print(f"{len(fit.left)} of the file are not in the model: {_some(fit.left)}")
    if args.backbone and "backbone.stem.conv1.norm.running_mean" in fit.matched:
        print(f"A torchvision net needs these lines in the config:\n{TORCHVISION_CONFIG}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
