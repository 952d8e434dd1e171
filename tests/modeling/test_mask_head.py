"""Mask FCN: 7x7x2048 -> 14x14xK, a sigmoid per pixel and class, class and mask decoupled."""

import pytest
import torch
from builders import load_cfg, tiny_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import build_mask_head
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from mrcnn_plugin import MRCNNMaskFCNHead


def head(**kwargs):
    args = {"num_classes": 5, "conv_dims": [8], **kwargs}
    return MRCNNMaskFCNHead(ShapeSpec(channels=16, height=7, width=7), **args)


def detections(*classes):
    instances = Instances((64, 64))
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


def foreground(classes, size=16):
    """RoIs of `size` pixels in the upper left corner, whose objects fill their left halves."""
    instances = Instances((64, 64))
    n = len(classes)
    masks = torch.zeros(n, 64, 64, dtype=torch.bool)
    masks[:, :size, : size // 2] = True
    instances.gt_masks = BitMasks(masks)
    instances.proposal_boxes = Boxes(torch.tensor([[0.0, 0.0, size, size]]).repeat(n, 1))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


def test_14x14_masks_of_80_classes_from_7x7x2048():
    cfg = load_cfg("mask_rcnn_R101_C4.yaml")
    mask_head = build_mask_head(cfg, ShapeSpec(channels=2048, height=7, width=7))
    assert mask_head.deconv.weight.shape == (2048, 256, 2, 2) and mask_head.deconv.stride == (2, 2)
    assert mask_head.predictor.weight.shape == (80, 256, 1, 1)
    with torch.no_grad():
        assert mask_head.layers(torch.randn(3, 2048, 7, 7)).shape == (3, 80, 14, 14)


def test_inference_reads_the_predicted_classes_mask():
    mask_head = head().eval()
    x = torch.randn(3, 16, 7, 7)
    with torch.no_grad():
        expected = mask_head.layers(x).sigmoid()
        first, second = mask_head(x, [detections(4, 0), detections(2)])
    close = torch.testing.assert_close
    close(first.pred_masks, torch.stack([expected[0, 4:5], expected[1, 0:1]]))
    close(second.pred_masks, expected[2:, 2:3])


@pytest.mark.parametrize("conv_dims", [[8], [6, 8]])
def test_the_mask_of_one_class_and_its_gradients_are_those_of_all_masks(conv_dims):
    mask_head, x, classes = head(conv_dims=conv_dims), torch.randn(3, 16, 7, 7), [4, 0, 4]
    for parameter in mask_head.parameters():
        torch.nn.init.normal_(parameter)
    target = torch.rand(3, 14, 14)
    results = []
    for masks in (
        lambda: mask_head.layers(x)[range(3), classes],
        lambda: mask_head.class_logits(x, torch.tensor(classes)),
    ):
        mask_head.zero_grad()
        (masks() - target).square().mean().backward()
        results.append([masks(), *(p.grad for p in mask_head.parameters())])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-3)
    assert all(grad.any() for grad in results[0][1:])


def test_sigmoid_masks_of_a_class_do_not_depend_on_the_other_classes():
    mask_head = head().eval()
    x = torch.randn(1, 16, 7, 7)
    with torch.no_grad():
        before = mask_head(x, [detections(1)])[0].pred_masks.clone()
        mask_head.predictor.weight[torch.tensor([0, 2, 3, 4])] += 1.0
        after = mask_head(x, [detections(1)])[0].pred_masks
    assert torch.equal(before, after)


def test_softmax_gives_a_pixel_to_its_most_probable_label():
    mask_head = head(mask_loss="softmax").eval()
    assert mask_head.predictor.out_channels == 5 + 1
    x = torch.randn(1, 16, 7, 7)
    with torch.no_grad():
        mask_head.predictor.weight.normal_()
        mask_head.predictor.bias.normal_()  # no ties where the hidden layer is all zero
        masks = torch.cat([mask_head(x, [detections(c)])[0].pred_masks for c in range(5)])
        winner = mask_head.layers(x).argmax(1)[0]  # 5 is background
    for c in range(5):
        assert torch.equal(masks[c, 0] > 0.5, winner == c)
    assert len(winner.unique()) > 3  # several labels compete here


def test_softmax_mask_by_hand():
    # Probabilities (0.4, 0.1, 0.5 background) and (0.3, 0.45, 0.25) of class 0: 0.4 / (0.4 + 0.5)
    # and 0.3 / (0.3 + 0.45).
    mask_head = head(mask_loss="softmax", num_classes=2).eval()
    logits = torch.tensor([[0.4, 0.1, 0.5], [0.3, 0.45, 0.25]]).log().T.reshape(1, 3, 1, 2)
    probs = mask_head._predicted_class_probs(logits, torch.tensor([0]))
    torch.testing.assert_close(probs.flatten(), torch.tensor([0.4 / 0.9, 0.3 / 0.75]))


@pytest.mark.parametrize("mask_loss", ["sigmoid", "softmax"])
def test_learns_half_masks(mask_loss):
    """Objects fill the left half of their RoI: after some steps the left half is predicted."""
    mask_head = head(mask_loss=mask_loss, conv_dims=[32])
    x, classes = torch.randn(4, 16, 7, 7), [0, 1, 2, 1]
    x[:, :8] = torch.arange(-3.0, 4.0)  # these channels say where in the RoI a pixel is,
    x[:, 8:] = torch.eye(8)[classes][..., None, None]  # and these the class
    optimizer = torch.optim.Adam(mask_head.parameters(), 0.03)
    with EventStorage() as storage:
        for _ in range(120):
            loss = mask_head(x, [foreground(classes[:1]), foreground(classes[1:])])["loss_mask"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert storage.latest()["mask_rcnn/accuracy"][0] > 0.95
    with torch.no_grad():
        (out,) = mask_head.eval()(x, [detections(*classes)])
    masks = out.pred_masks[:, 0] > 0.5
    assert masks[:, :, :7].float().mean() > 0.95 and masks[:, :, 7:].float().mean() < 0.05


def test_images_without_foreground_give_a_zero_loss_with_a_graph():
    mask_head = head()
    with EventStorage():
        loss = mask_head(torch.randn(0, 16, 7, 7), [foreground([])])["loss_mask"]
    loss.backward()
    assert loss.item() == 0 and mask_head.deconv.weight.grad is not None


def test_class_agnostic_masks():
    cfg = tiny_cfg("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True)
    mask_head = build_mask_head(cfg, ShapeSpec(channels=16, height=7, width=7))
    assert mask_head.predictor.out_channels == 1
    (out,) = mask_head.eval()(torch.randn(2, 16, 7, 7), [detections(0, 2)])
    assert out.pred_masks.shape == (2, 1, 14, 14)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.trace`")
@pytest.mark.parametrize("mask_loss", ["sigmoid", "softmax"])
def test_trace_accepts_any_number_of_rois(mask_loss):
    mask_head = head(mask_loss=mask_loss).eval().requires_grad_(False)

    def masks(x, classes):
        instances = Instances((64, 64))
        instances.pred_classes = classes
        return mask_head(x, [instances])[0].pred_masks

    x, classes = torch.randn(7, 16, 7, 7), torch.tensor([0, 1, 2, 0, 1, 4, 3])
    with torch.no_grad():
        traced = torch.jit.trace(masks, (x[:5], classes[:5]), check_trace=False)
        assert torch.equal(traced(x, classes), masks(x, classes))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"mask_loss": "hinge"}, "MASK_LOSS is 'hinge'; expected one of .'sigmoid', 'softmax'"),
        ({"mask_loss": "softmax", "num_classes": 1}, "at least two"),
    ],
)
def test_wrong_losses_are_rejected(kwargs, message):
    with pytest.raises(ValueError, match=message):
        head(**kwargs)
