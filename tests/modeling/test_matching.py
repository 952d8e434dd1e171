"""`match_boxes` equals detectron2's `Matcher` on `pairwise_iou`, in bounded memory."""

import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou
from torch.utils._python_dispatch import TorchDispatchMode

from mrcnn_plugin.modeling import matching
from mrcnn_plugin.modeling.matching import match_boxes

RPN = ([0.3, 0.7], [0, -1, 1], True)
ROI_HEADS = ([0.5], [0, 1], False)
MATCHERS = [
    RPN,
    ROI_HEADS,
    ([0.5], [0, 1], True),
    ([0.1, 0.3, 0.5, 0.7], [-1, 0, 1, -1, 1], True),
    ([0.4, 0.4], [1, -1, 0], False),
]


def check(matcher, gt_boxes, boxes):
    """Compare with detectron2's whole matrix, and return the result."""
    gt_boxes, boxes = Boxes(gt_boxes), Boxes(boxes)
    expected = matcher(pairwise_iou(gt_boxes, boxes))
    result = match_boxes(matcher, gt_boxes, boxes)
    for theirs, ours in zip(expected, result):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    return result


def on_a_grid(count, generator, cells=6):
    """Boxes with few distinct corners: many equal IoU, duplicates, zero area, even x2 < x1."""
    return torch.randint(cells, (count, 4), generator=generator).float()


def anywhere(count, generator):
    corner = torch.rand(count, 2, generator=generator) * 500
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 300], dim=1)


@pytest.mark.parametrize("matcher", MATCHERS, ids=str)
@pytest.mark.parametrize("draw", [on_a_grid, anywhere])
@pytest.mark.parametrize("pairs", [1, 700, 2**18])
def test_random_boxes(matcher, draw, pairs, monkeypatch):
    monkeypatch.setitem(matching._PAIRS_AT_A_TIME, "cpu", pairs)
    generator = torch.Generator().manual_seed(0)
    for num_objects, num_boxes in ((1, 1), (1, 90), (7, 100), (40, 100), (120, 31), (64, 333)):
        for _ in range(5):
            boxes = draw(num_objects, generator), draw(num_boxes, generator)
            check(Matcher(*matcher), *boxes)


@pytest.mark.parametrize("matcher", [RPN, ROI_HEADS], ids=str)
def test_more_pairs_than_one_step(matcher):
    """30 objects, 40,000 boxes: six objects per step with the limit as it is."""
    generator = torch.Generator().manual_seed(1)
    check(Matcher(*matcher), anywhere(30, generator), anywhere(40_000, generator))


@pytest.mark.parametrize("matcher", MATCHERS, ids=str)
@pytest.mark.parametrize("num_objects, num_boxes", [(0, 5), (5, 0), (0, 0)])
def test_no_objects_or_no_boxes(matcher, num_objects, num_boxes):
    generator = torch.Generator()
    check(Matcher(*matcher), anywhere(num_objects, generator), anywhere(num_boxes, generator))


def test_ties_by_hand(monkeypatch):
    """Of equal objects the first is matched; of equal boxes all are best; IoU 0 may be the best."""
    monkeypatch.setitem(matching._PAIRS_AT_A_TIME, "cpu", 1)  # one object per step
    square, half, far, outside = (0, 0, 10, 10), (0, 0, 10, 5), (50, 50, 60, 60), (90, 90, 95, 95)
    boxes = torch.tensor([half, half, far, (0, 0, 10, 1)]).float()
    matches, labels = check(Matcher(*RPN), torch.tensor([square, square]).float(), boxes)
    assert matches.tolist() == [0, 0, 0, 0]
    assert labels.tolist() == [1, 1, 0, 0]  # IoU 0.5 is ignored unless it is the best
    matches, labels = check(Matcher(*RPN), torch.tensor([square, outside]).float(), boxes)
    assert labels.tolist() == [1, 1, 1, 1]  # `outside` has IoU 0 with all boxes: all are its best


@pytest.mark.parametrize("matcher", [RPN, ROI_HEADS], ids=str)
def test_zero_area_nan_and_one_sided_infinity_have_iou_0(matcher):
    nan, inf = float("nan"), float("inf")
    odd = torch.tensor([[5, 5, 5, 9], [5, 5, 5, 5], [nan, 0, 9, 9], [9, 9, 0, 0], [0, 0, inf, 9]])
    generator = torch.Generator().manual_seed(2)
    check(Matcher(*matcher), odd, anywhere(50, generator))
    check(Matcher(*matcher), anywhere(20, generator), odd)


@pytest.mark.parametrize("matcher", [RPN, ROI_HEADS], ids=str)
def test_an_iou_of_nan_is_an_error(matcher):
    """Two infinite boxes: detectron2's assertion fails without a message."""
    infinite = Boxes(torch.tensor([[0, 0, float("inf"), float("inf")]]))
    objects = Boxes.cat([Boxes(anywhere(3, torch.Generator())), infinite])
    with pytest.raises(AssertionError):
        Matcher(*matcher)(pairwise_iou(objects, infinite))
    with pytest.raises(FloatingPointError, match="is NaN; expected finite boxes"):
        match_boxes(Matcher(*matcher), objects, infinite)


def test_double_and_mixed_precision():
    generator = torch.Generator().manual_seed(3)
    objects, boxes = anywhere(20, generator), anywhere(60, generator)
    for dtypes in ((torch.float64, torch.float64), (torch.float32, torch.float16)):
        for matcher in MATCHERS:
            check(Matcher(*matcher), objects.to(dtypes[0]), (boxes / 4).to(dtypes[1]))


def test_a_matcher_of_another_class_gets_the_matrix():
    class Transposed(Matcher):
        def __call__(self, match_quality_matrix):
            return match_quality_matrix.shape, None

    boxes = Boxes(torch.rand(3, 4)), Boxes(torch.rand(8, 4))
    assert match_boxes(Transposed(*RPN), *boxes) == ((3, 8), None)


class LargestTensor(TorchDispatchMode):
    """Records the most elements that the result of an operator has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // 4)
        return result


@pytest.mark.parametrize("matcher", [RPN, ROI_HEADS], ids=str)
def test_no_tensor_grows_with_objects_times_boxes(matcher):
    generator = torch.Generator().manual_seed(4)
    objects, boxes = Boxes(anywhere(1000, generator)), Boxes(anywhere(3000, generator))
    with LargestTensor() as theirs:
        Matcher(*matcher)(pairwise_iou(objects, boxes))
    with LargestTensor() as ours:
        match_boxes(Matcher(*matcher), objects, boxes)
    assert ours.elements <= 2**18 < 1000 * 3000 <= theirs.elements
