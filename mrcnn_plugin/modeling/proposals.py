"""Selects the proposals of an RPN (Faster R-CNN, Sec. 3.3): the best boxes after NMS.

Shape shorthand: N images, A anchors of a level.
"""

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..layers.nms import batched_nms


@torch.no_grad()
def select_proposals(
    boxes: list[Tensor],
    scores: list[Tensor],
    image_sizes: list[tuple[int, int]],
    *,
    nms_threshold: float,
    max_before_nms: int,
    max_kept: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """The proposals that detectron2's `find_top_rpn_proposals` selects, in the same order.

    NMS ends once `max_kept` boxes are kept, while detectron2 computes the whole list and cuts it.

    Args:
        boxes: per level, (N, A, 4) float, x1, y1, x2, y2 in pixels of the network's input.
        scores: per level, (N, A) float32, float16 or bfloat16 log-odds of "object".
        image_sizes: (height, width) per image. Boxes are clipped to it.
        nms_threshold: a box whose intersection over union with a better one of its level is above
            this is dropped.
        max_before_nms: the number of boxes per level and image that NMS is given.
        max_kept: the number of proposals per image, of all levels together.
        min_box_size: a box is dropped if a side of it is not longer than this, in pixels.
        training: True raises if a candidate is not finite; False drops that candidate.

    Returns:
        per image, `proposal_boxes` and `objectness_logits` by descending score.

    Raises:
        FloatingPointError: a candidate is infinite or NaN in training.
    """
    candidates, candidate_scores, levels = [], [], []
    for level, (level_boxes, level_scores) in enumerate(zip(boxes, scores)):
        best, index = level_scores.topk(min(max_before_nms, level_scores.shape[1]), dim=1)
        candidates.append(level_boxes.gather(1, index[:, :, None].expand(-1, -1, 4)))
        candidate_scores.append(best)
        levels.append(torch.full_like(index[0], level))
    candidates, candidate_scores = torch.cat(candidates, dim=1), torch.cat(candidate_scores, dim=1)
    levels = torch.cat(levels)

    finite = candidates.isfinite().all(dim=2) & candidate_scores.isfinite()
    if training and not finite.all():
        raise FloatingPointError(
            "Predicted boxes or scores contain Inf/NaN. Training has diverged."
        )
    proposals = []
    for image, size in enumerate(image_sizes):
        valid = finite[image]
        own_boxes, own_levels = Boxes(candidates[image][valid]), levels[valid]
        own_scores = candidate_scores[image][valid]
        own_boxes.clip(size)
        large = own_boxes.nonempty(threshold=min_box_size)
        own_boxes, own_scores, own_levels = own_boxes[large], own_scores[large], own_levels[large]
        keep = batched_nms(own_boxes.tensor, own_scores, own_levels, nms_threshold, max_kept)
        proposals.append(
            Instances(size, proposal_boxes=own_boxes[keep], objectness_logits=own_scores[keep])
        )
    return proposals
