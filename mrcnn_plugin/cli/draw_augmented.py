"""`mrcnn dataset draw --augmented`: the images as the training loader would hand them on."""

import argparse
from collections.abc import Iterator

import numpy as np
from detectron2.data import Metadata

from ..data.coco_file import has_rle
from ..engine import load_config
from ..engine.augmentation import check_augmentation, training_mapper
from ..engine.rng import derived_seed, preserved_rng
from ..evaluation.report.draw import class_colors, draw_instances

CONFIG = "mask_rcnn_R101_C4_finetune.yaml"


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a number of variants; expected 1 or more"
        )
    return int(text)


def add_augmented_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--augmented --config-file --opts`."""
    parser.add_argument(
        "--augmented",
        type=_positive,
        nargs="?",
        const=1,
        metavar="N",
        help="draw N variants per image (default 1) with the augmentation of a config",
    )
    parser.add_argument(
        "--config-file", default=CONFIG, metavar="FILE", help=f"for --augmented; default {CONFIG}"
    )
    parser.add_argument(
        "--opts",
        nargs="+",
        default=[],
        metavar="KEY VALUE",
        help="for --augmented: overrides of the config, such as INPUT.AUG.ENABLED True",
    )


def draw_augmented(
    records: list[dict], content: dict, metadata: Metadata, args: argparse.Namespace
) -> Iterator[tuple[dict, str, np.ndarray]]:
    """(record, "_0" and so on, drawn RGB image) of each variant of each image.

    Args:
        records: in detectron2's dataset format.
        content: the COCO json that they come from.
        metadata: with the names of the classes.
        args: with those of `add_augmented_arguments` and `seed`.

    Raises:
        RunError: the config cannot be read, or a value of it is out of range.
    """
    cfg = load_config(args.config_file, args.opts)
    if "INPUT.MASK_FORMAT" not in args.opts:
        cfg.INPUT.MASK_FORMAT = "bitmask" if has_rle(content) else "polygon"
    cfg.MODEL.MASK_ON = cfg.MODEL.MASK_ON and not args.boxes_only
    check_augmentation(cfg)
    mapper = training_mapper(cfg)
    if not cfg.INPUT.AUG.ENABLED:
        print("INPUT.AUG.ENABLED is False: this is detectron2's augmentation, flips and sizes")
    for index, record in enumerate(records):
        for variant in range(args.augmented):
            with preserved_rng(derived_seed(args.seed, index, variant)):
                drawn = _draw(mapper(record), metadata, cfg.INPUT.FORMAT)
            yield record, f"_{variant}", drawn


def _draw(mapped: dict, metadata: Metadata, channels: str) -> np.ndarray:
    image = mapped["image"].permute(1, 2, 0).numpy()
    image = np.ascontiguousarray(image[:, :, ::-1] if channels == "BGR" else image)
    instances = mapped["instances"]
    classes, colors = instances.gt_classes.tolist(), class_colors(metadata)
    return draw_instances(
        image,
        instances.gt_boxes.tensor.tolist(),
        masks=instances.gt_masks if instances.has("gt_masks") else (),
        labels=[metadata.thing_classes[c] for c in classes],
        colors=[colors[c] for c in classes],
        scale=1.0,
    )
