"""The mask branch: a small FCN on each RoI, a mask per class (Mask R-CNN, Sec. 3, Fig. 4)."""

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads.mask_head import (
    ROI_MASK_HEAD_REGISTRY,
    MaskRCNNConvUpsampleHead,
)
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from .losses import mask_sigmoid_loss, mask_softmax_loss, true_class_masks

_LOSSES = {"sigmoid": mask_sigmoid_loss, "softmax": mask_softmax_loss}


@ROI_MASK_HEAD_REGISTRY.register()
class MRCNNMaskFCNHead(MaskRCNNConvUpsampleHead):
    """2x2 stride-2 deconv to 256, ReLU, 1x1 conv to K masks: (R, 2048, 7, 7) -> (R, K, 14, 14).

    The layers are detectron2's (`NUM_CONV` 3x3 convs may stand before the deconv). The head
    predicts a binary mask for each class without competition among classes; the class branch
    alone decides which of them is read. `mask_loss="softmax"` is the coupled head it is compared
    with: K + 1 outputs, background last, that compete for every pixel; a pixel is in the mask where
    the class of the RoI is its most probable label.
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, num_classes: int, mask_loss: str = "sigmoid", **kwargs
    ):
        """
        Args:
            input_shape: channels of the RoI features.
            num_classes: K, or 1 for class-agnostic masks.
            mask_loss: "sigmoid" or "softmax".
            kwargs: `conv_dims`, `conv_norm`, `loss_weight`, `vis_period` as in detectron2's
                `MaskRCNNConvUpsampleHead`.

        Raises:
            ValueError: another loss, or softmax over class-agnostic masks.
        """
        if mask_loss not in _LOSSES:
            raise ValueError(
                f"MODEL.MRCNN.MASK_LOSS is '{mask_loss}'; expected one of {[*_LOSSES]}"
            )
        if mask_loss == "softmax" and num_classes == 1:
            raise ValueError(
                "MODEL.MRCNN.MASK_LOSS 'softmax' lets classes compete and needs at least two of "
                "them; use 'sigmoid' for one class or CLS_AGNOSTIC_MASK"
            )
        background = 1 if mask_loss == "softmax" else 0
        super().__init__(input_shape, num_classes=num_classes + background, **kwargs)
        self.mask_loss = mask_loss

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec):
        ret = super().from_config(cfg, input_shape)
        ret["mask_loss"] = cfg.MODEL.MRCNN.MASK_LOSS
        return ret

    def forward(self, x: Tensor, instances: list[Instances]):
        """
        Args:
            x: (R, C, h, w) features of all images' RoIs, in the order of `instances`.
            instances: per image. In training the foreground proposals with `proposal_boxes`
                (input-image pixels), `gt_classes`, `gt_masks`; in inference with `pred_classes`.

        Returns:
            in training `{"loss_mask": scalar}`; in inference `instances` with `pred_masks`, each
            image's (R_i, 1, m, m) probabilities in the frame of its boxes.
        """
        logits = self.layers(x)
        if self.training:
            return {"loss_mask": self._loss(logits, instances) * self.loss_weight}
        probs = self._predicted_class_probs(logits, cat([i.pred_classes for i in instances]))
        for image_probs, image in zip(probs.split([len(i) for i in instances]), instances):
            image.pred_masks = image_probs
        return instances

    def _loss(self, logits: Tensor, instances: list[Instances]) -> Tensor:
        instances = [i for i in instances if len(i) > 0]
        if not instances:
            return logits.sum() * 0  # keeps every parameter in the graph, which DDP needs
        gt_classes = cat([i.gt_classes for i in instances])
        gt_masks = cat(
            [
                i.gt_masks.crop_and_resize(i.proposal_boxes.tensor, logits.shape[-1])
                for i in instances
            ]
        ).to(logits.device)
        self._log_accuracy(logits.detach(), gt_classes, gt_masks.bool())
        return _LOSSES[self.mask_loss](logits, gt_classes, gt_masks)

    def _predicted_class_probs(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(R, C, m, m) logits -> (R, 1, m, m) foreground probability of each RoI's class."""
        if self.mask_loss == "softmax":
            return _odds_on(logits.softmax(dim=1), classes)[:, None]
        return true_class_masks(logits, classes).sigmoid()[:, None]

    @torch.no_grad()
    def _log_accuracy(self, logits: Tensor, gt_classes: Tensor, gt_masks: Tensor) -> None:
        """detectron2's three training scalars of masks thresholded at 0.5."""
        wrong = (self._predicted_class_probs(logits, gt_classes)[:, 0] > 0.5) != gt_masks
        positive = gt_masks.sum().clamp(min=1)
        negative = (~gt_masks).sum().clamp(min=1)
        accuracy = 1 - wrong.float().mean()
        false_positive = (wrong & ~gt_masks).sum() / negative
        false_negative = (wrong & gt_masks).sum() / positive
        storage = get_event_storage()
        values = torch.stack([accuracy, false_positive, false_negative]).tolist()
        for name, value in zip(("accuracy", "false_positive", "false_negative"), values):
            storage.put_scalar(f"mask_rcnn/{name}", value)


def _odds_on(probs: Tensor, classes: Tensor) -> Tensor:
    """p_k / (p_k + the greatest other p): above 0.5 where class k is a pixel's most probable label.

    Args:
        probs: (R, K + 1, m, m), softmax over the labels of a pixel.
        classes: (R,) int64, k of each RoI.

    Returns:
        (R, m, m). An FCN labels a pixel by the maximum; masks are cut at 0.5.
    """
    own = true_class_masks(probs, classes)
    is_own = torch.zeros_like(probs, dtype=torch.bool)
    is_own[torch.arange(len(probs)), classes] = True
    rival = probs.masked_fill(is_own, 0).amax(dim=1)
    return own / (own + rival)
