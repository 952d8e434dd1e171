"""detectron2's own tests of export, RoIAlign and ROI heads, without and with `use_roi_align`."""

import os

import pytest
from checkouts import outcomes

CHECKOUT = os.environ.get("DETECTRON2_CHECKOUT")
FILES = (
    "tests/test_export_torchscript.py",
    "tests/layers/test_roi_align.py",
    "tests/modeling/test_roi_pooler.py",
    "tests/modeling/test_roi_heads.py",
)
# A pytest plugin. Models and the image are random, so nothing is downloaded.
RANDOM = """
import detectron2.utils.testing as testing
import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model

def random_model(path, trained=False, device=None):
    cfg = model_zoo.get_config(path)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST, cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 200, 50
    cfg.MODEL.RETINANET.TOPK_CANDIDATES_TEST = 50
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    model.pixel_std.mul_(1e3)
    return model

def random_image(tensor=True):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 255, (3, 240, 320), generator=generator).float()

model_zoo.get = random_model
testing.get_sample_coco_image = random_image
"""
# As after `use_roi_align`, also where a test makes a ROIAlign itself.
OURS = """
import importlib
from detectron2.layers import ROIAlign
from detectron2.modeling import poolers
from mrcnn_plugin import use_roi_align
from torch import nn

def our_roi_align(*args, **kwargs):
    model = nn.Sequential(ROIAlign(*args, **kwargs))
    assert use_roi_align(model).replaced
    return model[0]

poolers.ROIAlign = our_roi_align
importlib.import_module("detectron2.layers.roi_align").ROIAlign = our_roi_align
"""


@pytest.mark.slow
@pytest.mark.skipif(CHECKOUT is None, reason="set DETECTRON2_CHECKOUT to the path of a checkout")
def test_they_pass_as_without_our_roi_align(tmp_path):
    """Without detectron2's compiled ops, its two tests of the rotated RoIAlign fail in both."""
    theirs, ours = (outcomes(tmp_path, CHECKOUT, FILES, p) for p in (RANDOM, RANDOM + OURS))
    assert list(theirs.values()).count("PASSED") > 20
    assert ours == theirs
