#!/usr/bin/env python3
"""Convert weight files to this plugin's models, or one of its checkpoints to detectron2's own C4.

    convert_weights.py --config-file configs/mask_rcnn_R101_C4.yaml model_final_a2914c.pkl out.pth
    convert_weights.py --config-file configs/mask_rcnn_R101_C4.yaml --backbone resnet101.pth out.pth
    convert_weights.py --config-file CONFIG --to-detectron2 output/model_final.pth stock.pth

The input may be a Model Zoo file, a checkpoint, torchvision's resnet50/101, a Detectron (Caffe2)
pickle or MSRA's ImageNet nets. It fails when a tensor that the model needs is missing.
"""

import argparse
import sys

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from mrcnn_plugin import add_mrcnn_config
from mrcnn_plugin.checkpoint.weights import (
    TORCHVISION_CONFIG,
    check_fit,
    read_weights,
    to_detectron2,
    to_mrcnn,
)


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="the model that the weights are for")
    direction = parser.add_mutually_exclusive_group()
    direction.add_argument(
        "--backbone", action="store_true", help="the input is an ImageNet net: backbone and res5"
    )
    direction.add_argument(
        "--to-detectron2", action="store_true", help="write k RPN scores, for detectron2's head"
    )
    parser.add_argument("input")
    parser.add_argument("output", help="a .pth file for MODEL.WEIGHTS")
    parser.add_argument("opts", nargs="*", help="KEY VALUE overrides of the config")
    return parser.parse_args()


def target_model(args):
    """The model of the config; with --to-detectron2 the same with detectron2's RPN head."""
    cfg = get_cfg()
    add_mrcnn_config(cfg)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list([*args.opts, "MODEL.DEVICE", "cpu"])
    if args.to_detectron2:
        cfg.MODEL.RPN.HEAD_NAME = "StandardRPNHead"
    return build_model(cfg), cfg.MODEL.RPN.HEAD_NAME == "MRCNNRPNHead"


def main():
    args = parse()
    model, has_2k_scores = target_model(args)
    weights = read_weights(args.input)
    weights = to_mrcnn(weights) if has_2k_scores else to_detectron2(weights)
    fit = check_fit(weights, model, backbone_alone=args.backbone)

    kept = {name: weights[name] for name in fit.matched}
    torch.save({"model": kept, "__author__": "mrcnn_plugin"}, args.output)
    print(f"{len(fit.matched)} tensors matched and were written to {args.output}")
    if fit.missing:
        print(f"{len(fit.missing)} of the model are not in the file: {_some(fit.missing)}")
    if fit.left:
        print(f"{len(fit.left)} of the file have no place in the model: {_some(fit.left)}")
    if args.backbone and "backbone.stem.conv1.norm.running_mean" in fit.matched:
        print(f"A torchvision net wants these lines in the config:\n{TORCHVISION_CONFIG}")


def _some(names):
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"convert_weights.py: {error}")
