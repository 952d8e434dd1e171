"""Stock models of detectron2 and torchvision give the same results with our RoIAlign in them."""

import copy

import pytest
import torch
import torchvision
from builders import fake_batch
from detectron2 import model_zoo
from detectron2.layers import ROIAlign, ROIAlignRotated
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mrcnn_plugin import RoIAlign, use_roi_align

FEWER = (
    *("MODEL.DEVICE", "cpu", "MODEL.RPN.POST_NMS_TOPK_TEST", 30, "TEST.DETECTIONS_PER_IMAGE", 10),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 60, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.RESNETS.DEPTH", 50),
)
# name -> how many RoIAligns it has: a pooler of four levels for boxes, for masks or keypoints, ...
ZOO = {
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml": 10,
    "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml": 10,
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml": 10,
    "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml": 10,
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml": 1,
    "COCO-Detection/retinanet_R_50_FPN_1x.yaml": 0,
}


def zoo_model(name):
    cfg = model_zoo.get_config(name)
    cfg.merge_from_list(list(FEWER))
    model = build_model(cfg)
    model.pixel_std.mul_(1e3)  # random FrozenBN does not normalise: keep features small
    return model


def detections(model, batch):
    with torch.no_grad():
        return [o.get_fields() for o in model.eval().inference(batch, do_postprocess=False)]


@pytest.mark.parametrize("name", [n for n in ZOO if "panoptic" not in n and "retina" not in n])
def test_detectron2_models_detect_the_same(name):
    model, batch = zoo_model(name), fake_batch(num_classes=1)
    before = detections(model, batch)
    keys = list(model.state_dict())
    done = use_roi_align(model)
    assert len(done.replaced) == ZOO[name] and not done.left_alone
    assert list(model.state_dict()) == keys
    for theirs, ours in zip(before, detections(model, batch)):
        assert len(theirs["scores"]) > 0 and set(theirs) == set(ours)
        for field in theirs:
            a, b = (
                f[field].tensor if isinstance(f[field], Boxes) else f[field] for f in (theirs, ours)
            )
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3, msg=field)


def pooled_and_gradient(model):
    """The box pooler's output on random maps, and the gradient to them."""
    pooler = model.roi_heads.box_pooler
    generator = torch.Generator().manual_seed(0)
    features = [
        torch.randn(1, 256, s, s, generator=generator, requires_grad=True) for s in (64, 32, 16, 8)
    ]
    boxes = torch.rand(40, 4, generator=generator) * 100
    boxes[:, 2:] += boxes[:, :2] + torch.logspace(0, 2.8, 40)[:, None]  # of every level
    out = pooler(features, [Boxes(boxes)])
    upstream = torch.randn(out.shape, generator=generator)
    return [out, *torch.autograd.grad(out, features, upstream)]


def test_panoptic_fpn_and_gradients_to_every_level():
    model = zoo_model("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml")
    before = pooled_and_gradient(model)
    done = use_roi_align(model)
    assert len(done.replaced) == 10
    with CountingOps() as ops:
        after = pooled_and_gradient(model)
    assert ops.names.count("mrcnn_plugin::roi_align_levels") == 1
    assert "aten::nonzero" not in ops.names and "mrcnn_plugin::roi_align" not in ops.names
    done.undo()
    assert type(model.roi_heads.box_pooler) is ROIPooler
    assert all(type(p) is ROIAlign for p in model.roi_heads.box_pooler.level_poolers)
    for theirs, ours in zip(before, after):
        assert theirs.any()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_training_losses_are_the_same():
    model, batch = zoo_model("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"), fake_batch()
    losses = []
    for replace in (False, True):
        if replace:
            use_roi_align(model)
        torch.manual_seed(1)  # the same anchors and RoIs are sampled
        with EventStorage(), torch.no_grad():
            losses.append(model.train()(copy.deepcopy(batch)))
    for name, theirs in losses[0].items():
        torch.testing.assert_close(losses[1][name], theirs, rtol=1e-4, atol=1e-6, msg=name)


def test_retinanet_has_nothing_to_replace():
    assert use_roi_align(zoo_model("COCO-Detection/retinanet_R_50_FPN_1x.yaml")).replaced == []


def test_torchvision_mask_rcnn():
    model = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=4, min_size=128, max_size=160,
        rpn_post_nms_top_n_test=30, box_score_thresh=0.0, box_detections_per_img=10,
    ).eval()  # fmt: skip
    images = [torch.rand(3, 96, 128), torch.rand(3, 120, 100)]
    with torch.no_grad():
        before = model(images)
        done = use_roi_align(model)
        after = model(images)
    assert done.replaced == ["roi_heads.box_roi_pool", "roi_heads.mask_roi_pool"]
    for theirs, ours in zip(before, after):
        assert len(theirs["scores"]) > 0
        for field in theirs:
            torch.testing.assert_close(ours[field], theirs[field], rtol=1e-4, atol=1e-3, msg=field)


def test_torchvision_multiscale_gradients():
    theirs = torchvision.ops.MultiScaleRoIAlign(["a", "b"], (3, 4), 2)
    ours = nn.Sequential(copy.deepcopy(theirs))
    use_roi_align(ours)
    boxes = [torch.rand(20, 4) * 100 for _ in range(2)]
    for b in boxes:
        b[:, 2:] += b[:, :2] + torch.logspace(0, 2.5, 20)[:, None]
    results = []
    for pooler in (theirs, ours[0]):
        torch.manual_seed(2)
        x = {
            n: torch.randn(2, 5, s, s, requires_grad=True)
            for n, s in (("a", 32), ("b", 16), ("c", 8))
        }
        out = pooler(x, boxes, [(256, 256), (250, 200)])
        grads = torch.autograd.grad(out, [x["a"], x["b"]], torch.randn_like(out))
        results.append([out, *grads])
    for a, b in zip(*results):
        assert a.any()
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_torchvision_multiscale_is_one_call_in_any_mix_of_dtypes():
    """Autocast may give the maps of a pyramid different dtypes; the first one's is the result's."""
    theirs = torchvision.ops.MultiScaleRoIAlign(["a", "b"], 3, 2)
    ours = nn.Sequential(copy.deepcopy(theirs))
    use_roi_align(ours)
    x = {"a": torch.randn(1, 2, 32, 32), "b": torch.randn(1, 2, 16, 16, dtype=torch.bfloat16)}
    boxes = [torch.tensor([[1.0, 1.0, 40.0, 40.0], [0.0, 0.0, 250.0, 250.0]])]
    with CountingOps() as ops:
        out = ours[0](x, boxes, [(256, 256)])
    assert ops.names.count("mrcnn_plugin::roi_align_levels") == 1
    assert "mrcnn_plugin::roi_align" not in ops.names
    assert out.dtype == torch.float32
    widened = {name: feature.float() for name, feature in x.items()}
    torch.testing.assert_close(out, theirs(widened, boxes, [(256, 256)]))


class CountingOps(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


BOXES = torch.tensor([[4.0, 6.0, 50.0, 61.0], [0.0, 0.0, 200.0, 120.0], [9.0, 9.0, 12.0, 30.0]])
ROIS = torch.cat([torch.zeros(3, 1), BOXES], dim=1)
MAP = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
PYRAMID = [MAP, MAP[:, :, ::2, ::2]]
# A pooler of theirs and its inputs.
POOLERS = {
    "detectron2.ROIAlign": (ROIAlign((3, 4), 0.25, 0), (MAP, ROIS)),
    "detectron2.ROIAlign, aligned=False": (ROIAlign(3, 0.25, 2, aligned=False), (MAP, ROIS)),
    "torchvision.RoIAlign": (torchvision.ops.RoIAlign(3, 0.25, -1), (MAP, ROIS)),
    "torchvision.RoIAlign, list": (torchvision.ops.RoIAlign(3, 0.25, -1), (MAP, [BOXES])),
    "torchvision.MultiScaleRoIAlign": (
        torchvision.ops.MultiScaleRoIAlign(["a", "b"], 3, 2),
        (dict(zip("ab", PYRAMID)), [BOXES], [(256, 256)]),
    ),
    "detectron2.ROIPooler": (
        ROIPooler(3, [1 / 4, 1 / 8], 0, "ROIAlignV2", canonical_box_size=112, canonical_level=3),
        (PYRAMID, [Boxes(BOXES)]),
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", POOLERS)
def test_a_pooler_that_scripts_still_does(name):
    """The scripted replacement gives the same result as the original."""
    pooler, inputs = POOLERS[name]
    torch.jit.script(pooler)
    model = nn.ModuleList([copy.deepcopy(pooler)])
    assert use_roi_align(model).replaced
    scripted = torch.jit.script(model[0])
    torch.testing.assert_close(scripted(*inputs), pooler(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.trace`")
def test_a_pooler_that_traces_still_does():
    pooler, (maps, (boxes,), sizes) = POOLERS["torchvision.MultiScaleRoIAlign"]
    model = nn.ModuleList([copy.deepcopy(pooler)])
    use_roi_align(model)

    def pool(a, b, boxes):
        return model[0]({"a": a, "b": b}, [boxes], sizes)

    traced = torch.jit.trace(pool, (maps["a"], maps["b"], boxes[:2]))
    for some in (boxes, boxes[1:]):
        expected = pooler(maps, [some], sizes)
        torch.testing.assert_close(traced(*maps.values(), some), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in POOLERS if "ROIPooler" not in name])
def test_a_pooler_traces_symbolically(name):
    """As torchvision's RoIAlign; detectron2's ROIAlign and torchvision's pyramid cannot."""
    pooler, inputs = POOLERS[name]
    model = nn.ModuleList([copy.deepcopy(pooler)])
    use_roi_align(model)
    traced = torch.fx.symbolic_trace(model[0])
    torch.testing.assert_close(traced(*inputs), pooler(*inputs), rtol=1e-4, atol=1e-5)


def test_adaptive_sampling_as_a_float():
    """detectron2's own tests construct ROIAlign(..., sampling_ratio=0.0)."""
    model = nn.Sequential(ROIAlign(3, 1.0, 0.0))
    use_roi_align(model)
    assert model[0].sampling_ratio == 0 and isinstance(model[0].sampling_ratio, int)


def test_undo_puts_the_originals_back():
    model = nn.Sequential(ROIAlign(7, 0.25, 0), torchvision.ops.RoIAlign(3, 1.0, -1))
    originals = list(model)
    done = use_roi_align(model)
    assert done.replaced == ["0", "1"] and all(isinstance(m, RoIAlign) for m in model)
    done.undo()
    assert list(model) == originals and done.replaced == []


def test_other_poolers_are_not_replaced_but_reported():
    model = nn.ModuleDict(
        {"rotated": ROIAlignRotated((7, 7), 0.25, 2), "pool": torchvision.ops.RoIPool(7, 0.25)}
    )
    before = list(model.values())
    done = use_roi_align(model)
    assert done.left_alone == {"rotated": "ROIAlignRotated", "pool": "RoIPool"}
    assert list(model.values()) == before and done.replaced == []


def test_a_model_that_is_a_pooler_cannot_be_replaced_in_place():
    with pytest.raises(ValueError, match=r"itself a ROIAlign.* Use mrcnn_plugin.RoIAlign"):
        use_roi_align(ROIAlign(7, 0.25, 0))


def test_boxes_with_a_graph_or_in_half_precision_are_accepted_as_in_detectron2():
    model = nn.Sequential(ROIAlign(3, 1.0, 2))
    x = torch.randn(1, 2, 8, 8)
    rois = torch.tensor([[0.0, 1.0, 1.0, 6.0, 5.0]])
    expected = model[0](x, rois)
    use_roi_align(model)
    for boxes in (rois.clone().requires_grad_(), rois.half()):
        torch.testing.assert_close(model[0](x, boxes), expected)
