"""ResNet-C4 and res5: shapes, depths, parameter names, freezing."""

import pytest
import torch
from builders import load_cfg
from detectron2.modeling import build_backbone

from mrcnn_plugin.modeling.backbone import res5_stage, resnet_c4, resnet_stage


def test_r101_c4_is_stride_16_with_1024_channels():
    backbone = build_backbone(load_cfg("mask_rcnn_R101_C4.yaml"))
    assert backbone.output_shape()["res4"].channels == 1024
    assert backbone.output_shape()["res4"].stride == 16
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 64, 96))
    assert set(features) == {"res4"} and features["res4"].shape == (1, 1024, 4, 6)


@pytest.mark.parametrize("depth, blocks", [(50, (3, 4, 6)), (101, (3, 4, 23)), (152, (3, 8, 36))])
def test_depths_have_the_layers_of_the_resnet_paper(depth, blocks):
    backbone = resnet_c4(depth=depth)
    assert tuple(len(backbone.get_submodule(f"res{i}")) for i in (2, 3, 4)) == blocks
    # Table 1: 1 stem conv, 3 convs per block, res5's 9 and the classifier make the depth.
    assert 1 + 3 * sum(blocks) + 3 * len(res5_stage(depth=depth, stride=1)) + 1 == depth


def test_same_names_and_function_as_detectron2s_backbone():
    cfg = load_cfg("mask_rcnn_R50_C4.yaml")
    ours = build_backbone(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    theirs = build_backbone(cfg)
    theirs.load_state_dict(ours.state_dict())  # strict: names and shapes are equal
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        # FrozenBN is folded into the convolutions, so the last digits differ.
        torch.testing.assert_close(ours(x)["res4"], theirs(x)["res4"], rtol=1e-3, atol=1e-2)


def test_res5_turns_7x7x1024_into_7x7x2048():
    res5 = res5_stage(depth=101, stride=1)
    assert (
        sum(isinstance(m, torch.nn.Conv2d) for b in res5 for m in (b.conv1, b.conv2, b.conv3)) == 9
    )
    with torch.no_grad():
        assert res5(torch.randn(2, 1024, 7, 7)).shape == (2, 2048, 7, 7)
        assert res5_stage(depth=101, stride=2)(torch.randn(2, 1024, 14, 14)).shape[-2:] == (7, 7)


def test_freeze_at_2_freezes_only_stem_and_res2():
    backbone = resnet_c4(depth=50, norm="BN", freeze_at=2)
    trainable = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert trainable == {"res3", "res4"}


def test_thin_resnet_18():
    backbone = resnet_c4(depth=18, stem_out_channels=8, res2_out_channels=16, norm="BN")
    assert backbone(torch.randn(1, 3, 64, 64))["res4"].shape == (1, 64, 4, 4)


def test_unknown_depth():
    with pytest.raises(ValueError, match="DEPTH is 99"):
        resnet_stage(2, depth=99, first_stride=1)


@pytest.mark.parametrize(
    "opts, message",
    [
        (("MODEL.RESNETS.OUT_FEATURES", ["res5"]), "OUT_FEATURES is .'res5'."),
        (("MODEL.RESNETS.RES5_DILATION", 2), "RES5_DILATION"),
        (("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, True, False]), "DEFORM_ON_PER_STAGE"),
    ],
)
def test_keys_that_c4_does_not_have_are_rejected(opts, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(load_cfg("mask_rcnn_R101_C4.yaml", *opts))
