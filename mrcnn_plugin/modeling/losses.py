"""The loss equations as pure functions of tensors: the two RPN terms and the mask term.

    L_rpn = 1/N_cls * sum_i L_cls(p_i, p*_i) + lambda * 1/N_reg * sum_i p*_i L_reg(t_i, t*_i)
    L     = L_cls + L_box + L_mask     (per RoI; L_cls and L_box are detectron2's Fast R-CNN losses)

Shape shorthand: N images, A anchors per image (all levels), R foreground RoIs, K classes,
m the mask's side.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def rpn_cls_loss(objectness_logits: Tensor, gt_labels: Tensor, *, n_cls: float) -> Tensor:
    """`1/N_cls * sum_i L_cls(p_i, p*_i)`, averaged over images (Faster R-CNN, eq. 1, first term).

    The log loss of the softmax over the two scores (background, object) equals the binary
    cross-entropy of the sigmoid of their difference. `objectness_logits` is that difference.

    Args:
        objectness_logits: (N, A) float, object score minus background score of each anchor.
        gt_labels: (N, A) integer: 1 object, 0 background, -1 not in the mini-batch.
        n_cls: N_cls, the mini-batch size in anchors per image (256).

    Returns:
        scalar, float32; zero (with a graph) when no anchor is sampled.
    """
    sampled = gt_labels >= 0
    loss = F.binary_cross_entropy_with_logits(
        objectness_logits[sampled].float(), gt_labels[sampled].float(), reduction="sum"
    )
    return loss / (n_cls * len(gt_labels))


def rpn_reg_loss(
    pred_deltas: Tensor,
    gt_deltas: Tensor,
    *,
    num_images: int,
    lam: float,
    n_reg: float,
    beta: float,
) -> Tensor:
    """`lambda * 1/N_reg * sum_i p*_i L_reg(t_i, t*_i)`, averaged over images (second term).

    `p*_i` is 1 for positive anchors and 0 for others, so only positive anchors are passed.

    Args:
        pred_deltas: (P, 4) float, `t_i = (t_x, t_y, t_w, t_h)` of the P positive anchors of all
            images.
        gt_deltas: (P, 4) float, their targets `t*_i`.
        num_images: N, the number of images that the anchors come from.
        lam: lambda, the balance of the two terms (10).
        n_reg: N_reg, the number of anchor locations (about 2400) or a constant.
        beta: the error at which R (smooth L1) turns from quadratic to linear; 0 is L1.

    Returns:
        scalar, float32; zero (with a graph) when there is no positive anchor.
    """
    loss = F.smooth_l1_loss(pred_deltas.float(), gt_deltas.float(), beta=beta, reduction="sum")
    return lam * loss / (n_reg * num_images)


def mask_sigmoid_loss(mask_logits: Tensor, gt_classes: Tensor, gt_masks: Tensor) -> Tensor:
    """`L_mask`: the mean binary cross-entropy of the true class's mask (Mask R-CNN, Sec. 3).

    For an RoI of class k only the k-th mask contributes, so classes do not compete.

    Args:
        mask_logits: (R, K, m, m) float, or (R, 1, m, m) for class-agnostic masks.
        gt_classes: (R,) int64 in [0, K); ignored when masks are class-agnostic.
        gt_masks: (R, m, m) bool or float in {0, 1}.

    Returns:
        scalar, float32; zero (with a graph) when R is 0.
    """
    if len(mask_logits) == 0:
        return mask_logits.sum().float() * 0
    logits = true_class_masks(mask_logits, gt_classes)
    return F.binary_cross_entropy_with_logits(logits.float(), gt_masks.float())


def mask_softmax_loss(mask_logits: Tensor, gt_classes: Tensor, gt_masks: Tensor) -> Tensor:
    """Per-pixel softmax and multinomial loss, the coupled alternative (Mask R-CNN, Table 2b).

    As in an FCN for semantic segmentation, each pixel of an RoI is one of K classes or background:
    the true class inside the mask, background outside.

    Args:
        mask_logits: (R, K + 1, m, m) float, background last.
        gt_classes: (R,) int64 in [0, K).
        gt_masks: (R, m, m) bool or float in {0, 1}.

    Returns:
        scalar, float32; zero (with a graph) when R is 0.
    """
    if len(mask_logits) == 0:
        return mask_logits.sum().float() * 0
    background = mask_logits.shape[1] - 1
    target = torch.where(gt_masks > 0, gt_classes[:, None, None], background)
    return F.cross_entropy(mask_logits.float(), target)


def true_class_masks(masks: Tensor, classes: Tensor) -> Tensor:
    """Select the mask of each RoI's class: (R, C, m, m) and (R,) -> (R, m, m). C = 1 has one."""
    if masks.shape[1] == 1:
        return masks[:, 0]
    # gather, unlike an index of length R, traces to a graph that accepts any number of RoIs.
    index = classes[:, None, None, None].expand(-1, 1, masks.shape[2], masks.shape[3])
    return masks.gather(1, index)[:, 0]
