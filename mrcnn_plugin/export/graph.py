"""The inference of a C4 Mask R-CNN on one image as a function of tensors, which can be exported.

detectron2's own inference cannot: it keeps results in `Instances` and `Boxes`, which ask for the
number of boxes, and branches on it. Here every number of boxes stays a dynamic size.

Shape shorthand: P proposals, N detections, K classes, A anchors.
"""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.proposal_generator import RPN
from torch import Tensor, nn

from ..errors import ConfigError
from ..layers.nms import nms
from ..modeling.mask_head import MRCNNMaskFCNHead
from ..modeling.roi_heads import MRCNNRes5ROIHeads

Run = Callable[[Tensor], tuple[Tensor, ...]]  # as `InferenceGraph.forward`


class InferenceGraph(nn.Module):
    """The detections of a model in one image, computed by the modules of that model.

    The result is that of `model.inference([{"image": image}], do_postprocess=False)`, without the
    detections whose score is below the threshold of their class. It is bit-identical as long as at
    most 1000 pairs of a proposal and a class are above the lowest threshold. For more, detectron2
    suppresses class by class, while the graph always moves the boxes of the classes apart, which
    rounds them.
    """

    def __init__(self, model: nn.Module, thresholds: Tensor):
        """
        Args:
            model: a `GeneralizedRCNN` of this plugin's C4 components, in evaluation mode. It is
                used, not copied.
            thresholds: (K,) float32, the score from which on a class is kept, in addition to the
                model's own `SCORE_THRESH_TEST`.

        Raises:
            ConfigError: the model has a part that cannot be exported.
        """
        super().__init__()
        check_exportable(model)
        self.model = model
        self.register_buffer("thresholds", thresholds.to(model.device))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """
        Args:
            image: (3, H, W) uint8, channels in the order of `INPUT.FORMAT`; it is normalized here.

        Returns:
            best score first: boxes (N, 4) float32, x1, y1, x2, y2 in pixels of `image`; scores (N,)
            float32; classes (N,) int64; and, if the model has masks, their probabilities (N, m, m)
            float32 in the frame of each box.
        """
        model, heads = self.model, self.model.roi_heads
        size = image.shape[1], image.shape[2]
        normalized = (image.float() - model.pixel_mean) / model.pixel_std
        features = model.backbone(normalized[None])
        feature = features[heads.in_features[0]]
        proposals = self._proposals(features[model.proposal_generator.in_features[0]], size)
        pooled = self._roi_features(feature, proposals).mean(dim=[2, 3])
        boxes, scores, classes = self._detections(proposals, *heads.box_predictor(pooled), size)
        if not heads.mask_on:
            return boxes, scores, classes
        found = SimpleNamespace(pred_classes=classes)
        heads.mask_head(self._roi_features(feature, boxes), [found])
        return boxes, scores, classes, found.pred_masks[:, 0]

    def _roi_features(self, feature: Tensor, boxes: Tensor) -> Tensor:
        heads = self.model.roi_heads
        return heads.res5(heads.pooler.roi_align(feature, [boxes]))

    def _proposals(self, feature: Tensor, size: tuple[int, int]) -> Tensor:
        """The RPN's (P, 4) boxes; see `select_proposals`."""
        rpn = self.model.proposal_generator
        (anchors,) = rpn.anchor_generator([feature])
        (logits,), (deltas,) = rpn.rpn_head([feature])
        scores = logits[0].permute(1, 2, 0).flatten()
        deltas = deltas[0].unflatten(0, (logits.shape[1], 4)).permute(2, 3, 0, 1).flatten(0, 2)
        boxes = rpn.box2box_transform.apply_deltas(deltas, anchors.tensor)
        # sym_min, unlike min(), does not decide which of the two is less for all images.
        scores, index = scores.topk(torch.sym_min(scores.shape[0], rpn.pre_nms_topk[False]))
        boxes = boxes[index]
        finite = boxes.isfinite().all(dim=1) & scores.isfinite()
        boxes = _clip(boxes, size)
        large = (boxes[:, 2:] - boxes[:, :2] > rpn.min_box_size).all(dim=1)
        boxes, scores = boxes[finite & large], scores[finite & large]
        return boxes[nms(boxes, scores, rpn.nms_thresh, rpn.post_nms_topk[False])]

    def _detections(
        self, proposals: Tensor, scores: Tensor, deltas: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(P, 4) proposals, their scores and deltas -> boxes, scores and classes."""
        predictor = self.model.roi_heads.box_predictor
        boxes = predictor.box2box_transform.apply_deltas(deltas, proposals)
        probs = scores.sigmoid() if predictor.use_sigmoid_ce else scores.softmax(dim=-1)
        finite = boxes.isfinite().all(dim=1) & probs.isfinite().all(dim=1)
        probs = probs[:, :-1]
        boxes = _clip(boxes.unflatten(1, (boxes.shape[1] // 4, 4)), size)
        above = (probs > predictor.test_score_thresh) & finite[:, None]
        index, classes = above.nonzero().unbind(dim=1)
        scores = probs[index, classes]
        agnostic = boxes.shape[1] == 1
        boxes = boxes[index, 0] if agnostic else boxes[index, classes]
        keep = nms(
            _apart(boxes, classes), scores, predictor.test_nms_thresh, predictor.test_topk_per_image
        )
        keep = keep[scores[keep] >= self.thresholds[classes[keep]]]
        return boxes[keep], scores[keep], classes[keep]


def _clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    x1, x2 = x1.clamp(0, width), x2.clamp(0, width)
    return torch.stack([x1, y1.clamp(0, height), x2, y2.clamp(0, height)], dim=-1)


def _apart(boxes: Tensor, classes: Tensor) -> Tensor:
    """Boxes such that those of different classes do not overlap, as torchvision computes them."""
    largest = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max()  # also without boxes
    return boxes + (classes.to(boxes) * (largest + 1))[:, None]


def check_exportable(model: nn.Module) -> None:
    """Raise if a part of the model is not one that `InferenceGraph` computes.

    Raises:
        ConfigError: see above; the message names the config key.
    """
    rpn, heads = getattr(model, "proposal_generator", None), getattr(model, "roi_heads", None)
    parts = [  # config key, part, what it has to be, in the order in which they are reported
        ("META_ARCHITECTURE", model, GeneralizedRCNN),
        ("ROI_HEADS.NAME", heads, MRCNNRes5ROIHeads),
        ("PROPOSAL_GENERATOR.NAME", rpn, RPN),
        ("ANCHOR_GENERATOR.NAME", getattr(rpn, "anchor_generator", None), DefaultAnchorGenerator),
    ]
    if getattr(heads, "mask_on", False):
        parts.append(("ROI_MASK_HEAD.NAME", heads.mask_head, MRCNNMaskFCNHead))
    for key, part, expected in parts:
        if not isinstance(part, expected):
            raise ConfigError(
                f"MODEL.{key} of the model is {type(part).__name__}; expected "
                f"{expected.__name__}. Only C4 models can be exported, not feature pyramids, "
                "cascades or keypoints."
            )
    if len(rpn.in_features) != 1:
        raise ConfigError(f"MODEL.RPN.IN_FEATURES is {rpn.in_features}; expected one feature map")
    if (pixels := model.backbone.size_divisibility) > 1:
        raise ConfigError(
            f"MODEL.BACKBONE.NAME of the model is a backbone that pads images to multiples of "
            f"{pixels} pixels; expected one without padding, such as "
            "build_mrcnn_resnet_c4_backbone."
        )
