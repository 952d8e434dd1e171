"""detectron2's mask_rcnn_R_101_C4_3x and ours in compatible mode: one state dict, one function."""

import copy

import pytest
import torch
from builders import fake_batch, load_cfg, tame_random_weights
from detectron2 import model_zoo
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

# Fewer regions than the zoo's config, so that two R-101 fit into seconds on a CPU.
FEWER = (
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 200, "MODEL.RPN.POST_NMS_TOPK_TEST", 60),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32, "TEST.DETECTIONS_PER_IMAGE", 20),
)


@pytest.fixture(scope="module")
def models():
    """(stock detectron2, ours), R-101, the same random weights and small images."""
    torch.manual_seed(3)
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_101_C4_3x.yaml")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *FEWER])
    stock = build_model(cfg)
    tame_random_weights(stock)
    ours = build_model(load_cfg("mask_rcnn_R101_C4_3x_detectron2.yaml", *FEWER))
    ours.load_state_dict(stock.state_dict())  # strict: every name and shape agrees
    return stock, ours


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(4)
    return fake_batch(num_classes=80, height=160, width=208)


def test_backbone_and_proposals(models, batch):
    outputs = []
    for model in models:
        model.eval()
        with torch.no_grad():
            images = model.preprocess_image(batch)
            features = model.backbone(images.tensor)
            proposals, _ = model.proposal_generator(images, features)
        outputs.append((features, proposals))
    (features, proposals), (our_features, our_proposals) = outputs
    scale = features["res4"].abs().max()
    torch.testing.assert_close(
        our_features["res4"] / scale, features["res4"] / scale, rtol=0, atol=1e-5
    )
    for theirs, ours in zip(proposals, our_proposals):
        for field in ("proposal_boxes", "objectness_logits"):
            a, b = (getattr(x.get(field), "tensor", x.get(field)) for x in (theirs, ours))
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-2 if b.ndim == 2 else 1e-4)


def test_detections(models, batch):
    outputs = []
    for model in models:
        model.eval()
        with torch.no_grad():
            outputs.append(model.inference(batch, do_postprocess=False))
    for theirs, ours in zip(*outputs):
        assert len(theirs) == len(ours) >= 5  # there is something to compare
        assert torch.equal(theirs.pred_classes, ours.pred_classes)
        torch.testing.assert_close(theirs.scores, ours.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            theirs.pred_boxes.tensor, ours.pred_boxes.tensor, rtol=1e-4, atol=1e-2
        )
        torch.testing.assert_close(theirs.pred_masks, ours.pred_masks, rtol=1e-3, atol=1e-4)
        assert theirs.pred_masks.std() > 0.05  # and the masks are not all one value


def test_training_losses_and_gradients(models, batch):
    losses, gradients = [], []
    for model in models:
        model.train()
        model.zero_grad()
        torch.manual_seed(5)  # the same anchors and RoIs are sampled
        with EventStorage():
            loss_dict = model(copy.deepcopy(batch))
        sum(loss_dict.values()).backward()
        losses.append(loss_dict)
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert set(losses[0]) == set(losses[1])
    for name, theirs in losses[0].items():
        torch.testing.assert_close(losses[1][name], theirs, rtol=1e-4, atol=1e-6, msg=name)
        assert theirs > 0
    for name, theirs in gradients[0].items():
        distance = (gradients[1][name] - theirs).norm() / theirs.norm().clamp(min=1e-8)
        assert distance < 1e-3, f"{name}: relative distance {distance}"
