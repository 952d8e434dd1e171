"""Matching of boxes with ground truth in bounded memory.

detectron2 computes the IoU of all ground-truth boxes with all anchors at once, which takes 2.6 GB
for 3,000 objects and 37,500 anchors. Here a few ground-truth boxes are compared at a time. The
results are bit-identical.

Shape shorthand: M ground-truth boxes, N boxes (anchors or proposals).
"""

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor

# Elements of each temporary tensor. On a CPU they stay in its cache; a GPU needs more to be busy.
_PAIRS_AT_A_TIME = {"cpu": 2**18}
_PAIRS_AT_A_TIME_ON_GPUS = 2**22


def match_boxes(matcher: Matcher, gt_boxes: Boxes, boxes: Boxes) -> tuple[Tensor, Tensor]:
    """Compute `matcher(pairwise_iou(gt_boxes, boxes))` in memory that does not grow with M * N.

    Args:
        matcher: a `Matcher` of detectron2. An object of any other class, subclasses included, may
            need the whole matrix and is called with it.
        gt_boxes: M boxes (x1, y1, x2, y2) in input-image pixels.
        boxes: N boxes in the same frame, on the same device.

    Returns:
        matches: (N,) int64 in [0, M), the first ground-truth box with the highest IoU; 0 if M is 0.
        labels: (N,) int8, the label that the matcher gives each box.

    Raises:
        FloatingPointError: an IoU is NaN, because the boxes are infinite or too large. (A box with
            a NaN coordinate has IoU 0 with all others, as in detectron2.)
    """
    if type(matcher) is not Matcher or len(gt_boxes) == 0 or len(boxes) == 0:
        return matcher(pairwise_iou(gt_boxes, boxes))
    matches, ious, is_best = _best_matches(
        gt_boxes, boxes, with_best_boxes=matcher.allow_low_quality_matches
    )
    if ious.isnan().any():
        raise FloatingPointError(
            "The IoU of a ground-truth box and an anchor or proposal is NaN; expected finite boxes "
            "below 1e19 pixels. Check the boxes of the dataset, or whether training has diverged."
        )
    # Thresholds are applied to the highest IoU of each box, which is a matrix with one row. Its
    # maximum is the best box of some ground-truth box, so is_best includes what the matcher adds.
    _, labels = matcher(ious[None])
    if matcher.allow_low_quality_matches:
        labels[is_best] = 1
    return matches, labels


def _best_matches(
    gt_boxes: Boxes, boxes: Boxes, *, with_best_boxes: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """For each of N boxes: its best ground-truth box, their IoU, and whether it is a best box.

    A best box has the highest IoU, possibly 0, with some ground-truth box; ties included.
    """
    gt_areas, areas = gt_boxes.area(), boxes.area()
    corners = boxes.tensor.t().contiguous()  # (4, N): rows are read one after another
    matches = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    dtype = torch.result_type(gt_boxes.tensor, boxes.tensor)
    best_ious = torch.full_like(areas, -1, dtype=dtype)
    is_best = torch.zeros_like(matches, dtype=torch.bool)
    pairs = _PAIRS_AT_A_TIME.get(boxes.device.type, _PAIRS_AT_A_TIME_ON_GPUS)
    step = max(1, pairs // len(boxes))
    for start in range(0, len(gt_boxes), step):
        rows = slice(start, start + step)
        iou = _iou(gt_boxes.tensor[rows], gt_areas[rows], corners, areas)
        values, indices = iou.max(dim=0)
        # Only a higher IoU replaces a match: the first ground-truth box wins a tie.
        matches = torch.where(values > best_ious, indices + start, matches)
        best_ious = torch.maximum(best_ious, values)  # NaN stays
        if with_best_boxes:
            is_best |= (iou == iou.amax(dim=1, keepdim=True)).any(dim=0)
    return matches, best_ious, is_best


def _iou(gt_boxes: Tensor, gt_areas: Tensor, corners: Tensor, areas: Tensor) -> Tensor:
    """(m, 4), (m,), (4, N), (N,) -> (m, N), by the arithmetic of detectron2's `pairwise_iou`."""
    x1, y1, x2, y2 = corners
    gt_x1, gt_y1, gt_x2, gt_y2 = gt_boxes[:, :, None].unbind(1)
    width = torch.min(gt_x2, x2).sub_(torch.max(gt_x1, x1)).clamp_(min=0)
    height = torch.min(gt_y2, y2).sub_(torch.max(gt_y1, y1)).clamp_(min=0)
    intersection = width.mul_(height)
    union = (gt_areas[:, None] + areas).sub_(intersection)
    return torch.where(intersection > 0, intersection / union, 0)
