"""Proposals are those of detectron2, in the same order, whatever the scores and boxes are."""

import pytest
import torch
from builders import tiny_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator import RPN, build_proposal_generator
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.structures import ImageList

from mrcnn_plugin.modeling.proposals import select_proposals

SIZES = [(200, 300), (160, 220), (90, 310)]


def predictions(anchors_per_level, seed=0):
    """Boxes that crowd around a few places, some of them outside of the image, and scores."""
    generator = torch.Generator().manual_seed(seed)
    boxes, scores = [], []
    for count in anchors_per_level:
        shape = (len(SIZES), count, 2)
        center = torch.randint(0, 8, shape, generator=generator) * 45.0
        center += torch.randn(shape, generator=generator) * 4
        half = 4 + torch.rand(shape, generator=generator) * 40
        boxes.append(torch.cat([center - half, center + half], dim=2))
        scores.append(torch.randn(shape[:2], generator=generator))
    return boxes, scores


def detectron2s(boxes, scores, *, before=2000, kept=100, min_size=0.0, training=False):
    with torch.autocast("cpu", torch.bfloat16):  # without it, their NMS rejects bfloat16 scores
        return find_top_rpn_proposals(boxes, scores, SIZES, 0.7, before, kept, min_size, training)


def ours(boxes, scores, *, before=2000, kept=100, min_size=0.0, training=False):
    return select_proposals(
        boxes,
        scores,
        SIZES,
        nms_threshold=0.7,
        max_before_nms=before,
        max_kept=kept,
        min_box_size=min_size,
        training=training,
    )


def assert_equal(theirs, ours):
    for their_image, our_image in zip(theirs, ours, strict=True):
        assert our_image.image_size == their_image.image_size
        assert torch.equal(our_image.proposal_boxes.tensor, their_image.proposal_boxes.tensor)
        assert our_image.objectness_logits.dtype == their_image.objectness_logits.dtype
        assert torch.equal(our_image.objectness_logits, their_image.objectness_logits)


@pytest.mark.parametrize("levels", [(300,), (3000,), (0,), (400, 200, 30, 1), (3000, 900, 100)])
@pytest.mark.parametrize("kept", [1, 100, 5000])
@pytest.mark.parametrize("scores_are", ["distinct", "tied", "bfloat16", "equal"])
def test_equal_to_detectron2(levels, kept, scores_are):
    boxes, scores = predictions(levels)
    change = {
        "distinct": lambda s: s,
        "tied": lambda s: (s * 4).round(),
        "bfloat16": lambda s: s.bfloat16(),
        "equal": torch.zeros_like,
    }[scores_are]
    inputs = (boxes, [change(s) for s in scores])
    found = ours(*inputs, kept=kept)
    assert_equal(detectron2s(*inputs, kept=kept), found)
    if sum(levels) > 1000 and kept == 100:
        assert [len(image) for image in found] == [100] * 3  # so the search has stopped early


@pytest.mark.parametrize("min_size", [0.0, 30.0, 1e4])
def test_small_boxes_are_dropped(min_size):
    boxes, scores = predictions((500, 100))
    boxes[0][0, :200, 2:] = boxes[0][0, :200, :2]  # empty
    boxes[1][1] += 1000  # outside of the image, so empty after clipping
    found = ours(boxes, scores, min_size=min_size)
    assert_equal(detectron2s(boxes, scores, min_size=min_size), found)
    assert all(len(image) for image in found) == (min_size < 1e4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["boxes", "scores"])
def test_values_that_are_not_finite(where, value):
    boxes, scores = predictions((800, 50))
    if where == "boxes":
        boxes[1][2, 3:9, 1] = value
    else:
        scores[1][2, 3:9] = value
        scores[0][1] = value
    assert_equal(detectron2s(boxes, scores), ours(boxes, scores))
    for select in (detectron2s, ours):
        with pytest.raises(FloatingPointError, match="contain Inf/NaN"):
            select(boxes, scores, training=True)


CHANNELS = 16


@pytest.fixture
def rpn():
    torch.manual_seed(0)
    return build_proposal_generator(
        tiny_cfg("MODEL.RPN.POST_NMS_TOPK_TRAIN", 70),
        {"res4": ShapeSpec(channels=CHANNELS, stride=16)},
    )


@pytest.mark.parametrize("training", [True, False])
def test_the_rpn_proposes_what_detectron2s_does(rpn, training):
    features = torch.randn(2, CHANNELS, 12, 18) * 20
    logits, deltas = rpn.train(training).rpn_head([features])
    inputs = (
        rpn.anchor_generator([features]),
        [x.permute(0, 2, 3, 1).flatten(1) for x in logits],
        [x.view(2, -1, 4, 12, 18).permute(0, 3, 4, 1, 2).flatten(1, -2) for x in deltas],
        [(192, 288), (180, 200)],
    )
    found = rpn.predict_proposals(*inputs)
    assert_equal(RPN.predict_proposals(rpn, *inputs), found)
    assert [len(image) for image in found] == [70 if training else 20] * 2
    assert not found[0].proposal_boxes.tensor.requires_grad


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.trace`")
def test_a_trace_holds_for_other_values_and_sizes(rpn):
    rpn.eval().requires_grad_(False)

    def propose(x):
        images = ImageList(x.new_zeros(1, 3, 192, 288), [(192, 288)])
        (proposals,), _ = rpn(images, {"res4": x})
        return proposals.proposal_boxes.tensor, proposals.objectness_logits

    with torch.no_grad():
        traced = torch.jit.trace(propose, torch.randn(1, CHANNELS, 12, 18), check_trace=False)
        for width in (18, 7):
            x = torch.randn(1, CHANNELS, 12, width) * 20
            torch.testing.assert_close(traced(x), propose(x))
