"""The C4 head: RoIAlign 7x7 -> res5, stride 1 -> branches; or detectron2's 14x14 with stride 2."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import ROOT, fake_batch, load_cfg, tiny_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.modeling.roi_heads import Res5ROIHeads, ROIHeads, build_roi_heads
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch.utils._python_dispatch import TorchDispatchMode

from mrcnn_plugin.errors import RunError
from mrcnn_plugin.modeling.roi_bitmasks import RoIBitMasks
from mrcnn_plugin.modeling.roi_heads import _BoundedSampling, _ClassCheck


def r50_heads(*opts):
    """Only the head of R50-C4, on 1024-channel features of stride 16."""
    cfg = load_cfg("mask_rcnn_R50_C4.yaml", *opts)
    return build_roi_heads(cfg, {"res4": ShapeSpec(channels=1024, stride=16)})


DETECTRON2_HEAD = ("MODEL.MRCNN.RES5_STRIDE", 2, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14)
FEATURES = [torch.randn(1, 1024, 8, 10, generator=torch.Generator().manual_seed(1))]
BOXES = [Boxes(torch.tensor([[5.0, 9.0, 100.0, 120.0], [30.3, 0.0, 160.0, 50.7]]))]


def test_paper_head_shapes():
    heads = r50_heads()
    pooled = heads.pooler(FEATURES, BOXES)
    assert pooled.shape == (2, 1024, 7, 7)
    with torch.no_grad():
        assert heads.res5(pooled).shape == (2, 2048, 7, 7)
    assert heads.box_predictor.cls_score.in_features == 2048


def test_stride_2_computes_only_the_bins_that_are_read():
    """res5's first 1x1 convs have stride 2: every second bin, then stride 1, is the same."""
    heads = r50_heads(*DETECTRON2_HEAD)
    assert heads.pooler(FEATURES, BOXES).shape == (2, 1024, 7, 7)
    assert heads.res5[0].conv1.stride == heads.res5[0].shortcut.stride == (1, 1)


@pytest.mark.parametrize("stride_in_1x1", [True, False])
def test_stride_2_equals_all_bins_and_a_strided_res5(stride_in_1x1):
    """Against the full 14x14 grid through detectron2's own res5, on the same weights."""
    heads = r50_heads(*DETECTRON2_HEAD, "MODEL.RESNETS.STRIDE_IN_1X1", stride_in_1x1)
    cfg = load_cfg("mask_rcnn_R50_C4.yaml", "MODEL.RESNETS.STRIDE_IN_1X1", stride_in_1x1)
    theirs, _ = Res5ROIHeads._build_res5_block(cfg)
    theirs.load_state_dict(heads.res5.state_dict())
    full_grid = heads.pooler.roi_align.__class__(14, 1 / 16, sampling_ratio=2)
    with torch.no_grad():
        rois = torch.cat([torch.zeros(2, 1), BOXES[0].tensor], dim=1)
        expected = theirs(full_grid(FEATURES[0], rois))
        torch.testing.assert_close(
            heads.res5(heads.pooler(FEATURES, BOXES)), expected, rtol=1e-5, atol=1e-4
        )


def test_roi_align_options_come_from_config():
    heads = r50_heads(
        *("MODEL.MRCNN.ROI_ALIGN_MODE", "max"),
        *("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlign"),
        *("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 3),
    )
    op = heads.pooler.roi_align
    assert (op.mode, op.aligned, op.sampling_ratio) == ("max", False, 3)


def test_train_step_reaches_every_parameter():
    model = build_model(tiny_cfg()).train()
    with EventStorage():
        losses = model(fake_batch())
    names = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    assert set(losses) == names and all(torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_inference_gives_boxes_classes_and_full_size_masks():
    model = build_model(tiny_cfg()).eval()
    with torch.no_grad():
        outputs = model(fake_batch(height=96, width=128))
    for output in outputs:
        instances = output["instances"]
        assert len(instances) > 0
        assert instances.pred_masks.shape == (len(instances), 96, 128)
        assert instances.pred_masks.dtype == torch.bool
        assert instances.pred_classes.max() < 3


def test_inference_outside_no_grad_gives_features_a_gradient_and_boxes_none():
    model = build_model(tiny_cfg()).eval()
    images = model.preprocess_image(fake_batch(1))
    features = model.backbone(images.tensor)
    proposals, _ = model.proposal_generator(images, features)
    (output,), _ = model.roi_heads(images, features, proposals)
    output.pred_masks.sum().backward()
    assert model.backbone.stem.conv1.weight.grad.any()
    assert model.roi_heads.box_predictor.bbox_pred.weight.grad is None


def test_images_without_objects_train():
    model = build_model(tiny_cfg()).train()
    with EventStorage():
        losses = model(fake_batch(num_instances=0))
    assert losses["loss_mask"] == 0 and losses["loss_rpn_loc"] == 0
    sum(losses.values()).backward()


@pytest.mark.parametrize("wrong_class", [3, 7, -1])
def test_class_beyond_num_classes_is_an_error_not_background(wrong_class):
    model = build_model(tiny_cfg()).train()
    batch = fake_batch()
    batch[1]["instances"].gt_classes[0] = wrong_class
    with EventStorage(), pytest.raises(ValueError, match=r"MODEL.ROI_HEADS.NUM_CLASSES"):
        model(batch)


@pytest.mark.parametrize(
    "opts, message",
    [
        (("MODEL.MRCNN.RES5_STRIDE", 2), "stride 2 on an even number of bins"),
        (("MODEL.MRCNN.RES5_STRIDE", 3), "RES5_STRIDE is 3"),
        (("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool"), "POOLER_TYPE is 'ROIPool'"),
        (("MODEL.KEYPOINT_ON", True), "no keypoint branch"),
        (("MODEL.ROI_HEADS.IN_FEATURES", ["res3", "res4"]), "reads one feature map"),
    ],
)
def test_config_that_cannot_be_built_is_an_error_with_the_fix(opts, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as error:
        r50_heads(*opts)
    assert isinstance(error.value, RunError) and "\n" not in str(error.value)


def test_a_backbone_whose_channels_no_res4_has_is_an_error():
    cfg = load_cfg("mask_rcnn_R50_C4.yaml")
    with pytest.raises(RunError, match="has 30 channels; expected a multiple of 4"):
        build_roi_heads(cfg, {"res4": ShapeSpec(channels=30, stride=16)})


class CountingReads(TorchDispatchMode):
    """Counts the operators that make a CUDA device wait for the host."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_class_check_reads_the_device_at_most_once():
    class Base:
        num_classes = 3

        def label_and_sample_proposals(self, proposals, targets):
            return proposals

    class Checked(_ClassCheck, Base):
        pass

    targets = [SimpleNamespace(gt_classes=torch.tensor(c)) for c in ([0, 2], [1])]
    with CountingReads() as reads:
        assert Checked().label_and_sample_proposals([], targets) == []
    assert reads.count <= 1
    targets[1].gt_classes[0] = 3
    with pytest.raises(RunError, match=r"span 0 to 3, but the model has classes 0 to 2"):
        Checked().label_and_sample_proposals([], targets)


def as_polygons(boxes: Boxes) -> PolygonMasks:
    corners = boxes.tensor.double().numpy()[:, [0, 1, 2, 1, 2, 3, 0, 3]]
    return PolygonMasks([[polygon] for polygon in np.ascontiguousarray(corners)])


def crowd_and_proposals(masks: str) -> tuple[list[Instances], list[Instances]]:
    """150 objects in the first image, none in the second, and 300 random proposals in each."""
    torch.manual_seed(0)
    batch = [*fake_batch(1, num_instances=150), *fake_batch(1, num_instances=0)]
    targets, proposals = [image["instances"] for image in batch], []
    for image in targets:
        if masks == "polygon":
            image.gt_masks = as_polygons(image.gt_boxes)
        corner = torch.rand(300, 2) * torch.tensor([100.0, 70.0])
        boxes = Boxes(torch.cat([corner, corner + 2 + torch.rand(300, 2) * 60], dim=1))
        boxes.clip((96, 128))
        fields = {"proposal_boxes": boxes, "objectness_logits": torch.randn(300)}
        proposals.append(Instances((96, 128), **fields))
    return targets, proposals


def heads_and_features(project: str):
    if project == "C4":
        heads = build_roi_heads(tiny_cfg(), {"res4": ShapeSpec(channels=32, stride=16)})
        return heads, {"res4": torch.randn(2, 32, 6, 8)}
    config = {"FPN": "MaskRCNN-FPN/configs/mask_rcnn_R50_FPN.yaml"}.get(
        project, "CascadeMaskRCNN/configs/cascade_mask_rcnn_R50_FPN.yaml"
    )
    cfg = load_cfg(ROOT / "projects" / config, "MODEL.ROI_BOX_HEAD.FC_DIM", 32)
    shapes = {f"p{i}": ShapeSpec(channels=16, stride=2**i) for i in range(2, 6)}
    features = {f"p{i}": torch.randn(2, 16, 96 // 2**i, 128 // 2**i) for i in range(2, 6)}
    return build_roi_heads(cfg, shapes), features


@pytest.mark.parametrize("masks", ["bitmask", "polygon"])
@pytest.mark.parametrize("project", ["C4", "FPN", "Cascade"])
def test_losses_and_scalars_of_crowded_images_are_detectron2s(project, masks, monkeypatch):
    """With detectron2's method and with ours: also the random numbers are the same."""
    heads, features = heads_and_features(project)
    results = []
    for method in (ROIHeads, _BoundedSampling):
        monkeypatch.setattr(
            _BoundedSampling, "label_and_sample_proposals", method.label_and_sample_proposals
        )
        targets, proposals = crowd_and_proposals(masks)
        torch.manual_seed(1)
        with EventStorage() as storage:
            _, losses = heads(None, features, proposals, targets)
        scalars = {name: value for name, (value, _) in storage.latest().items()}
        results.append((losses, scalars, torch.get_rng_state()))
    (their_losses, their_scalars, their_rng), (losses, scalars, rng) = results
    assert losses == their_losses and losses["loss_mask"] > 0
    assert scalars == their_scalars and scalars["roi_head/num_fg_samples"] > 5
    assert torch.equal(rng, their_rng)


def test_sampled_proposals_share_the_bitmasks_of_the_image():
    heads, _ = heads_and_features("C4")
    targets, proposals = crowd_and_proposals("bitmask")
    with EventStorage():
        crowd, empty = heads.label_and_sample_proposals(proposals, targets)
    assert isinstance(crowd.gt_masks, RoIBitMasks) and crowd.gt_masks.masks is targets[0].gt_masks
    foreground = crowd[crowd.gt_classes < heads.num_classes]
    assert foreground.gt_masks.masks is targets[0].gt_masks
    boxes = foreground.gt_masks.get_bounding_boxes()  # each mask is a rectangle, its box
    assert len(boxes) > 5 and torch.equal(boxes.tensor, foreground.gt_boxes.tensor)
    assert not empty.has("gt_masks")


class SmallBackbone(Backbone):
    """Any backbone with a `res4` of stride 16; its 64 channels are not those of a ResNet-50."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 64, 16, stride=16)
        self._out_features = ["res4"]
        self._out_feature_channels, self._out_feature_strides = {"res4": 64}, {"res4": 16}

    def forward(self, x):
        return {"res4": self.conv(x)}


@pytest.mark.parametrize("depth", [18, 50])
def test_res5_has_twice_the_channels_of_any_backbone(depth):
    BACKBONE_REGISTRY._do_register("SmallBackbone", SmallBackbone)
    try:
        cfg = load_cfg(
            "mask_rcnn_R50_C4.yaml",
            *("MODEL.BACKBONE.NAME", "SmallBackbone", "MODEL.RESNETS.DEPTH", depth),
            *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TEST", 10),
            *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
        )
        model = build_model(cfg)
    finally:
        BACKBONE_REGISTRY._obj_map.pop("SmallBackbone")
    assert model.roi_heads.box_predictor.cls_score.in_features == 128
    assert model.roi_heads.mask_head.deconv.in_channels == 128
    with EventStorage():
        sum(model(fake_batch(1)).values()).backward()
    with torch.no_grad():
        assert len(model.eval()(fake_batch(1))[0]["instances"]) > 0
