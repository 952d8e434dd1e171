"""Sizes of objects after the resizing of training, by hand."""

import numpy as np
from coco_files import coco_content
from detectron2.config import get_cfg

from mrcnn_plugin.data.training_sizes import (
    format_training_sizes,
    smallest_covered,
    training_sizes,
)


def content(sides):
    """Squares in an image of 400 x 200 pixels, of which the last is a crowd region."""
    content = coco_content(1, width=400, height=200)
    content["annotations"] = [
        {"image_id": 1, "bbox": [0, 0, side, side], "iscrowd": int(k == len(sides))}
        for k, side in enumerate(sides, start=1)
    ]
    return content


def test_sizes_by_hand():
    """The shorter side becomes 800, unless the longer one would exceed 1200."""
    squares = content([10, 16, 99])
    np.testing.assert_allclose(training_sizes(squares, 800, 2000), [40, 64])
    np.testing.assert_allclose(training_sizes(squares, 800, 1200), [30, 48])
    np.testing.assert_allclose(training_sizes(squares, 0, 1200), [10, 16])


def test_anchors_and_the_warning():
    """IoU of concentric squares of 32 and 17.5 pixels is 0.3, the threshold of the RPN."""
    cfg = get_cfg()
    anchor, limit = smallest_covered(cfg)
    assert anchor == 32 and abs((limit / anchor) ** 2 - 0.3) < 1e-9
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (200,), 400
    few = format_training_sizes(content([10, 20, 30, 99]), cfg)
    assert "median 20 px" in few and "33% below 18 px" in few and "warning" not in few
    most = format_training_sizes(content([10, 15, 30, 99]), cfg)
    assert "67% below 18 px" in most and "warning: most objects are too small" in most
    assert format_training_sizes(content([99]), cfg) == "no object to train on"
