"""The loss equations against arithmetic that can be followed by hand."""

import math

import pytest
import torch

from mrcnn_plugin.modeling.losses import (
    mask_sigmoid_loss,
    mask_softmax_loss,
    rpn_cls_loss,
    rpn_reg_loss,
    true_class_masks,
)


def log_loss(probability):
    return -math.log(probability)


def test_rpn_cls_loss_by_hand():
    # One image. Probabilities 0.8 (object), 0.3 (background), 0.6 (not sampled): by hand
    # (-ln 0.8 - ln 0.7) / 256.
    logits = torch.tensor([[0.8, 0.3, 0.6]]).logit()
    loss = rpn_cls_loss(logits, torch.tensor([[1, 0, -1]]), n_cls=256)
    assert loss.item() == pytest.approx((log_loss(0.8) + log_loss(0.7)) / 256, rel=1e-6)


def test_rpn_cls_loss_is_the_log_loss_of_a_two_class_softmax():
    background, object_ = torch.randn(2, 3, 50)
    labels = torch.randint(0, 2, (3, 50))
    scores = torch.stack([background, object_], dim=1)  # (N, 2, A)
    softmax = torch.nn.functional.cross_entropy(scores, labels, reduction="sum") / (256 * 3)
    ours = rpn_cls_loss(object_ - background, labels, n_cls=256)
    torch.testing.assert_close(ours, softmax)


def test_rpn_cls_loss_averages_over_images():
    logits, labels = torch.randn(1, 8), torch.randint(-1, 2, (1, 8))
    one = rpn_cls_loss(logits, labels, n_cls=256)
    two = rpn_cls_loss(logits.repeat(2, 1), labels.repeat(2, 1), n_cls=256)
    torch.testing.assert_close(one, two)


def test_rpn_reg_loss_by_hand():
    # Smooth L1, beta 1: 0.5 d^2 below 1, d - 0.5 above. Differences 0.5, 0, -2, 0 and 0, 1, 0, 3:
    # (0.125 + 1.5) + (0.5 + 2.5) = 4.625; times lambda 10, over N_reg 2400.
    pred = torch.tensor([[0.5, 0.0, -2.0, 0.0], [1.0, 1.0, 0.0, 3.0]])
    target = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    loss = rpn_reg_loss(pred, target, num_images=1, lam=10, n_reg=2400, beta=1.0)
    assert loss.item() == pytest.approx(10 * 4.625 / 2400, rel=1e-6)
    two_images = rpn_reg_loss(pred, target, num_images=2, lam=10, n_reg=2400, beta=1.0)
    assert two_images.item() == pytest.approx(10 * 4.625 / 4800, rel=1e-6)
    # beta 0 is L1: 0.5 + 2 + 1 + 3 = 6.5.
    l1 = rpn_reg_loss(pred, target, num_images=1, lam=1, n_reg=1, beta=0.0)
    assert l1.item() == pytest.approx(6.5)


def test_rpn_losses_without_anchors_are_zero_and_differentiable():
    logits = torch.randn(2, 5, requires_grad=True)
    deltas = torch.randn(0, 4, requires_grad=True)
    labels = torch.full((2, 5), -1)
    loss = rpn_cls_loss(logits, labels, n_cls=256) + rpn_reg_loss(
        deltas, torch.zeros(0, 4), num_images=2, lam=10, n_reg=100, beta=1.0
    )
    loss.backward()
    assert loss.item() == 0 and logits.grad.abs().sum() == 0


def test_mask_sigmoid_loss_by_hand():
    # Two RoIs, three classes, 1x1 masks. RoI 0 is class 2 with p = 0.9 inside the object; RoI 1 is
    # class 0 with p = 0.4 outside: (-ln 0.9 - ln 0.6) / 2. The other classes' masks say nothing.
    probs = torch.tensor([[0.2, 0.5, 0.9], [0.4, 0.8, 0.1]])[..., None, None]
    gt_masks = torch.tensor([True, False])[:, None, None]
    loss = mask_sigmoid_loss(probs.logit(), torch.tensor([2, 0]), gt_masks)
    assert loss.item() == pytest.approx((log_loss(0.9) + log_loss(0.6)) / 2, rel=1e-5)


def test_mask_sigmoid_loss_has_no_gradient_for_any_other_class():
    logits = torch.randn(4, 5, 14, 14, requires_grad=True)
    classes = torch.tensor([0, 3, 3, 4])
    mask_sigmoid_loss(logits, classes, torch.rand(4, 14, 14) > 0.5).backward()
    true = torch.zeros(4, 5, dtype=torch.bool)
    true[torch.arange(4), classes] = True
    assert (logits.grad[~true] == 0).all()
    assert (logits.grad[true] != 0).all()


def test_mask_softmax_loss_by_hand():
    # One RoI of class 1 of two, two pixels: inside, the softmax gives class 1 the probability 0.7;
    # outside, it gives background (last) 0.5.
    inside, outside = torch.tensor([0.1, 0.7, 0.2]).log(), torch.tensor([0.4, 0.1, 0.5]).log()
    logits = torch.stack([inside, outside], dim=1).reshape(1, 3, 1, 2)
    gt_masks = torch.tensor([[[True, False]]])
    loss = mask_softmax_loss(logits, torch.tensor([1]), gt_masks)
    assert loss.item() == pytest.approx((log_loss(0.7) + log_loss(0.5)) / 2, rel=1e-5)


def test_mask_softmax_loss_lets_classes_compete():
    logits = torch.randn(2, 4, 14, 14, requires_grad=True)
    mask_softmax_loss(logits, torch.tensor([0, 2]), torch.rand(2, 14, 14) > 0.5).backward()
    assert (logits.grad != 0).all()


@pytest.mark.parametrize("loss_fn", [mask_sigmoid_loss, mask_softmax_loss])
def test_mask_losses_of_no_rois_keep_the_graph(loss_fn):
    logits = torch.randn(0, 4, 14, 14, requires_grad=True)
    loss = loss_fn(logits, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 14, 14))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None


def test_true_class_masks_class_agnostic():
    masks = torch.randn(3, 1, 2, 2)
    assert torch.equal(true_class_masks(masks, torch.tensor([5, 0, 9])), masks[:, 0])
