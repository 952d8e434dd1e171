"""RPN: 4k + 2k outputs, the loss of Faster R-CNN, its box coding, detectron2's interface."""

import math

import pytest
import torch
from builders import tiny_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator import RPN, build_proposal_generator
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage

from mrcnn_plugin import MRCNNRPNHead

CHANNELS = 64


def build_rpn(*opts):
    return build_proposal_generator(
        tiny_cfg(*opts), {"res4": ShapeSpec(channels=CHANNELS, stride=16)}
    )


def test_head_has_4k_and_2k_outputs():
    head = MRCNNRPNHead(in_channels=CHANNELS, num_anchors=15)
    assert head.objectness_logits.weight.shape == (2 * 15, CHANNELS, 1, 1)
    assert head.anchor_deltas.weight.shape == (4 * 15, CHANNELS, 1, 1)
    assert head.conv.weight.shape == (CHANNELS, CHANNELS, 3, 3)
    (logits,), (deltas,) = head([torch.randn(2, CHANNELS, 5, 7)])
    assert logits.shape == (2, 15, 5, 7) and deltas.shape == (2, 60, 5, 7)


def test_sigmoid_of_the_head_is_the_softmax_of_its_two_scores():
    head = MRCNNRPNHead(in_channels=CHANNELS, num_anchors=3)
    x = torch.randn(2, CHANNELS, 4, 4) * 20
    (logits,), _ = head([x])
    scores = head.objectness_logits(head.conv(x)).view(2, 2, 3, 4, 4)  # (background, object) x k
    torch.testing.assert_close(logits.sigmoid(), scores.softmax(dim=1)[:, 1])


@pytest.mark.parametrize(
    "anchor, box, expected",
    [
        # centre (50, 50) of 20 x 40 to centre (60, 40) of 40 x 20: by the formulas
        ((40, 30, 60, 70), (40, 30, 80, 50), (10 / 20, -10 / 40, math.log(2), math.log(0.5))),
        ((0, 0, 16, 16), (0, 0, 16, 16), (0, 0, 0, 0)),
    ],
)
def test_box_parameterisation(anchor, box, expected):
    """t_x = (x - x_a) / w_a, t_y = (y - y_a) / h_a, t_w = log(w / w_a), t_h = log(h / h_a)."""
    transform = build_rpn().box2box_transform
    assert isinstance(transform, Box2BoxTransform)
    anchor, box = torch.tensor([anchor]).float(), torch.tensor([box]).float()
    deltas = transform.get_deltas(anchor, box)
    torch.testing.assert_close(deltas, torch.tensor([expected], dtype=torch.float32))
    torch.testing.assert_close(transform.apply_deltas(deltas, anchor), box)


def losses_of(rpn, labels, logits, pred_deltas, gt_boxes, anchors):
    with EventStorage():
        return rpn.losses([anchors], [logits], list(labels), [pred_deltas], list(gt_boxes))


@pytest.mark.parametrize("n_reg, divisor", [(0.0, 4), (2400.0, 2400)])
def test_loss_by_hand(n_reg, divisor):
    """Two images on a 2 x 2 map (4 locations) with k = 15: one positive each, and one ignored."""
    rpn = build_rpn("MODEL.MRCNN.RPN_N_REG", n_reg)
    k, locations = 15, 4
    anchors = Boxes(torch.tensor([[0.0, 0.0, 10.0, 20.0]]).repeat(k * locations, 1))
    labels = torch.full((2, k * locations), -1)
    labels[:, 3], labels[:, 7] = 1, 0
    logits = torch.zeros(2, k * locations)
    logits[0, 3], logits[1, 7] = torch.tensor([0.9, 0.2]).logit()
    # Targets of every anchor: shifted by (2, -5), same size: t* = (0.2, -0.25, 0, 0).
    gt_boxes = (anchors.tensor + torch.tensor([2.0, -5.0, 2.0, -5.0])).repeat(2, 1, 1)
    deltas = torch.full((2, k * locations, 4), 7.0)  # wrong everywhere, but only positives count
    deltas[0, 3] = torch.tensor([0.2, -0.25, 0.0, 3.0])  # R(3) = 2.5
    deltas[1, 3] = torch.tensor([0.7, -0.25, 0.0, 0.0])  # R(0.5) = 0.125

    losses = losses_of(rpn, labels, logits, deltas, gt_boxes, anchors)
    cls = -(math.log(0.9) + math.log(0.5) + math.log(0.5) + math.log(0.8)) / 256 / 2
    reg = 10 * (2.5 + 0.125) / divisor / 2
    assert losses["loss_rpn_cls"].item() == pytest.approx(cls, rel=1e-5)
    assert losses["loss_rpn_loc"].item() == pytest.approx(reg, rel=1e-5)


def test_n_reg_is_about_2400_for_a_600_by_1000_image():
    rpn = build_rpn()
    features = [torch.zeros(1, CHANNELS, math.ceil(600 / 16), math.ceil(1000 / 16))]
    assert rpn._num_locations(rpn.anchor_generator(features)) == 38 * 63 == 2394


def test_lambda_scales_only_the_regression_term():
    anchors = Boxes(torch.rand(60, 4).cumsum(1) * 20)
    labels = torch.randint(-1, 2, (1, 60))
    inputs = (
        labels,
        torch.randn(1, 60),
        torch.randn(1, 60, 4),
        anchors.tensor[None] + 1.0,
        anchors,
    )
    one = losses_of(build_rpn("MODEL.MRCNN.RPN_LAMBDA", 1.0), *inputs)
    ten = losses_of(build_rpn("MODEL.MRCNN.RPN_LAMBDA", 10.0), *inputs)
    assert ten["loss_rpn_cls"] == one["loss_rpn_cls"]
    torch.testing.assert_close(ten["loss_rpn_loc"], 10 * one["loss_rpn_loc"])


def test_trains_and_proposes_through_detectron2s_interface():
    rpn = build_rpn()
    images = ImageList(torch.zeros(2, 3, 96, 128), [(96, 128), (96, 128)])
    features = {"res4": torch.randn(2, CHANNELS, 6, 8)}
    targets = Instances((96, 128))
    targets.gt_boxes = Boxes(torch.tensor([[10.0, 10.0, 60.0, 70.0]]))
    empty = Instances((96, 128))
    empty.gt_boxes = Boxes(torch.zeros(0, 4))
    with EventStorage():
        proposals, losses = rpn(images, features, [targets, empty])
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc"}
    sum(losses.values()).backward()
    assert rpn.rpn_head.objectness_logits.weight.grad.abs().sum() > 0
    assert rpn.rpn_head.anchor_deltas.weight.grad.abs().sum() > 0
    for image in proposals:
        assert len(image) > 0
        ranked = image.objectness_logits
        assert torch.equal(ranked, ranked.sort(descending=True).values)


@pytest.mark.parametrize("boundary", [-1, 0])
def test_sampled_anchors_are_detectron2s(boundary):
    """The same labels, boxes and random numbers, with many, one and no objects."""
    rpn = build_rpn("MODEL.RPN.BOUNDARY_THRESH", boundary)
    anchors = rpn.anchor_generator([torch.zeros(1, CHANNELS, 12, 16)])
    images = []
    for num_objects in (200, 0, 1):
        corner = torch.rand(num_objects, 2) * 150
        boxes = torch.cat([corner, corner + 4 + torch.rand(num_objects, 2) * 60], dim=1)
        images.append(Instances((192, 256), gt_boxes=Boxes(boxes)))
    results = []
    for method in (RPN.label_and_sample_anchors, type(rpn).label_and_sample_anchors):
        torch.manual_seed(0)
        labels, boxes = method(rpn, anchors, images)
        results.append([*labels, *boxes, torch.get_rng_state()])
    for theirs, ours in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    assert sum(results[1][0] == 1) > 20  # of the image with 200 objects


@pytest.mark.parametrize(
    "opts, message",
    [
        (("MODEL.MRCNN.RPN_N_REG", -1.0), "RPN_N_REG is -1.0"),
        (("MODEL.RPN.BBOX_REG_LOSS_TYPE", "giou"), "BBOX_REG_LOSS_TYPE is 'giou'"),
    ],
)
def test_config_that_the_loss_does_not_define_is_rejected(opts, message):
    with pytest.raises(ValueError, match=message):
        build_rpn(*opts)
