"""The exported program has the detections of detectron2's inference, for images of any size."""

import pytest
import torch
from builders import ROOT, fake_batch, load_cfg, tame_random_weights, tiny_cfg
from detectron2.modeling import build_model

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.export.graph import InferenceGraph
from mrcnn_plugin.export.program import export_program
from mrcnn_plugin.modeling.frozen_bn import fuse_frozen_bn

SIZES = [(224, 224), (160, 304), (301, 197), (384, 288), (64, 80), (17, 33)]


def make_model(*opts):
    model = build_model(tiny_cfg(*opts)).eval()
    if model.roi_heads.mask_on:
        tame_random_weights(model)
    return model


@torch.no_grad()
def detectron2_inference(model, image, thresholds):
    (found,) = model.inference([{"image": image}], do_postprocess=False)
    found = found[found.scores >= thresholds[found.pred_classes]]
    masks = [found.pred_masks[:, 0]] if found.has("pred_masks") else []
    return [found.pred_boxes.tensor, found.scores, found.pred_classes, *masks]


def assert_same(found, expected):
    assert [t.dtype for t in found] == [t.dtype for t in expected]
    for name, a, b in zip(("boxes", "scores", "classes"), found, expected):
        assert torch.equal(a, b), name
    # The model computes masks also of detections below the threshold: other blocks of a product.
    torch.testing.assert_close(list(found[3:]), list(expected[3:]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "opts",
    [
        (),
        ("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.MRCNN.ROI_ALIGN_MODE", "max"),
        (
            *("MODEL.MASK_ON", False, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
            *("MODEL.RPN.HEAD_NAME", "StandardRPNHead", "MODEL.RPN.BBOX_REG_WEIGHTS", (1, 1, 2, 2)),
        ),
        (
            *("MODEL.MRCNN.MASK_LOSS", "softmax", "MODEL.MRCNN.RES5_STRIDE", 2),
            *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14),
        ),
    ],
    ids=["BN", "FrozenBN-max", "boxes-agnostic", "softmax-stride2"],
)
def test_equals_detectron2(opts):
    """Six sizes and a black image; then no detections and no proposals."""
    model = make_model(*opts)
    thresholds = torch.tensor([0.1, 0.2, 0.3])
    run = export_program(InferenceGraph(model, thresholds).eval()).module()
    images = [fake_batch(1, height=h, width=w)[0]["image"] for h, w in SIZES]
    counts = []
    for image in [*images, torch.zeros(3, 96, 96, dtype=torch.uint8)]:
        expected = detectron2_inference(model, image, thresholds)
        assert_same(run(image), expected)
        counts.append(len(expected[0]))
    assert min(counts[:5]) > 0 and len(set(counts)) > 2

    run.thresholds.fill_(1.1)
    found = run(images[0])
    assert_same(found, detectron2_inference(model, images[0], torch.full((3,), 1.1)))
    assert len(found[0]) == 0
    for module in (run, model):
        deltas = module.get_parameter(
            next(n for n, _ in module.named_parameters() if n.endswith("anchor_deltas.bias"))
        )
        deltas.data.fill_(float("nan"))
    assert_same(run(images[0]), detectron2_inference(model, images[0], thresholds))


@pytest.mark.parametrize(
    "config, opts, key",
    [
        ("projects/MaskRCNN-FPN/configs/mask_rcnn_R50_FPN.yaml", (), "ROI_HEADS.NAME"),
        ("projects/CascadeMaskRCNN/configs/cascade_mask_rcnn_R50_FPN.yaml", (), "ROI_HEADS.NAME"),
        (None, ("MODEL.ROI_HEADS.NAME", "Res5ROIHeads"), "ROI_HEADS.NAME"),
        (None, ("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"), "ROI_MASK_HEAD.NAME"),
    ],
)
def test_the_error_names_the_key(config, opts, key):
    cfg = load_cfg(ROOT / config, *opts) if config else tiny_cfg(*opts)
    with pytest.raises(ConfigError, match=rf"^MODEL\.{key} of the model is .*Only C4 models"):
        InferenceGraph(build_model(cfg), torch.zeros(cfg.MODEL.ROI_HEADS.NUM_CLASSES))


def test_for_inductor_no_map_is_channels_last():
    """AOTInductor would read the maps in the wrong order (docs/deploy.md)."""
    model = make_model("MODEL.RESNETS.NORM", "FrozenBN")
    graph = InferenceGraph(model, torch.zeros(3)).eval()
    for channels_last in (True, False):
        program = export_program(graph, channels_last=channels_last)
        found = any(torch.channels_last in node.args for node in program.graph.nodes)
        assert found == channels_last
    fuse_frozen_bn(model)
    program = export_program(graph, channels_last=False)
    assert not model.backbone.stem.conv1.weight.is_contiguous()
    for weight in program.state_dict.values():  # also of 1x1, whose strides can be of both layouts
        assert weight.stride() == torch.empty(weight.shape).stride()
