"""The sizes of objects after the resizing of training, compared with the anchors."""

import numpy as np
from detectron2.config import CfgNode

from .masks import image_sizes


def training_sizes(content: dict, min_size: float, max_size: float) -> np.ndarray:
    """(N,) square roots of the areas of boxes, in pixels of the resized image; no crowd regions.

    Args:
        content: as `check_content` returns it.
        min_size, max_size: the shorter side of an image after resizing, and the most that the
            longer one may have (detectron2's `ResizeShortestEdge`). A `min_size` of 0 means that
            images are not resized.
    """
    scales = {}
    for number, size in image_sizes(content).items():
        scales[number] = min(min_size / min(size), max_size / max(size)) if min_size else 1.0
    objects = [a for a in content["annotations"] if not a.get("iscrowd")]
    areas = np.array([a["bbox"][2] * a["bbox"][3] for a in objects], float)
    return np.sqrt(areas) * np.array([scales[a["image_id"]] for a in objects], float)


def smallest_covered(cfg: CfgNode) -> tuple[float, float]:
    """The smallest anchor, and the size of the smallest square object that it covers, in pixels.

    An anchor around a smaller object has a lower IoU with it than the threshold of the RPN for
    background, `MODEL.RPN.IOU_THRESHOLDS[0]`.
    """
    anchor = min(size for level in cfg.MODEL.ANCHOR_GENERATOR.SIZES for size in level)
    return anchor, anchor * cfg.MODEL.RPN.IOU_THRESHOLDS[0] ** 0.5


def format_training_sizes(content: dict, cfg: CfgNode) -> str:
    """A line about the sizes of objects at the training resolution, and a warning if most of them
    are smaller than what the anchors of the config cover."""
    min_size, max_size = float(np.median(cfg.INPUT.MIN_SIZE_TRAIN)), cfg.INPUT.MAX_SIZE_TRAIN
    sizes = training_sizes(content, min_size, max_size)
    if not len(sizes):
        return "no object to train on"
    anchor, limit = smallest_covered(cfg)
    small = float(np.mean(sizes < limit))
    resolution = f"shorter side {min_size:.0f}, longer at most {max_size}" if min_size else "as is"
    text = (
        f"at the training resolution ({resolution}): median {np.median(sizes):.0f} px, square root "
        f"of box area; {small:.0%} below {limit:.0f} px, which the smallest anchor ({anchor:.0f} "
        "px) does not cover"
    )
    if small > 0.5:
        text += (
            "\nwarning: most objects are too small for the anchors. Raise INPUT.MIN_SIZE_TRAIN, "
            "INPUT.MAX_SIZE_TRAIN and the same of TEST, cut the images with `mrcnn dataset tile`, "
            "or set smaller MODEL.ANCHOR_GENERATOR.SIZES"
        )
    return text
