"""The mask branch, a small FCN that predicts a mask per class (Mask R-CNN, Sec. 3, Fig. 4)."""

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

from ..config import check_mrcnn_config
from ..errors import ConfigError
from .losses import mask_sigmoid_loss, mask_softmax_loss, true_class_masks

_LOSSES = {"sigmoid": mask_sigmoid_loss, "softmax": mask_softmax_loss}


@ROI_MASK_HEAD_REGISTRY.register()
class MRCNNMaskFCNHead(MaskRCNNConvUpsampleHead):
    """2x2 stride-2 deconv to 256, ReLU, 1x1 conv to K masks: (R, 2048, 7, 7) -> (R, K, 14, 14).

    The layers are detectron2's; `NUM_CONV` adds 3x3 convs before the deconv. The head predicts a
    binary mask for each class without competition among classes, and only the class branch decides
    which mask is used. `mask_loss="softmax"` is the coupled alternative of Table 2b: K + 1 outputs,
    background last, compete for each pixel, and a pixel belongs to the mask where the class of the
    RoI is its most probable label.
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, num_classes: int, mask_loss: str = "sigmoid", **kwargs
    ):
        """
        Args:
            input_shape: the shape of the RoI features, of which only the channels are used.
            num_classes: K, or 1 for class-agnostic masks.
            mask_loss: "sigmoid" or "softmax".
            kwargs: `conv_dims`, `conv_norm`, `loss_weight`, `vis_period` as in detectron2's
                `MaskRCNNConvUpsampleHead`.

        Raises:
            ConfigError: the loss is unknown, or it is softmax over class-agnostic masks.
        """
        if mask_loss not in _LOSSES:
            raise ConfigError(
                f"MODEL.MRCNN.MASK_LOSS is '{mask_loss}'; expected one of {[*_LOSSES]}"
            )
        if mask_loss == "softmax" and num_classes == 1:
            raise ConfigError(
                "MODEL.MRCNN.MASK_LOSS is 'softmax', in which classes compete, but the head has "
                "one class; expected at least two. Set MASK_LOSS to 'sigmoid' for a single class "
                "or for CLS_AGNOSTIC_MASK."
            )
        background = 1 if mask_loss == "softmax" else 0
        super().__init__(input_shape, num_classes=num_classes + background, **kwargs)
        self.mask_loss = mask_loss

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec):
        check_mrcnn_config(cfg)
        ret = super().from_config(cfg, input_shape)
        ret["mask_loss"] = cfg.MODEL.MRCNN.MASK_LOSS
        return ret

    def forward(self, x: Tensor, instances: list[Instances]):
        """
        Args:
            x: (R, C, h, w) features of the RoIs of all images, in the order of `instances`.
            instances: one `Instances` per image. In training these are the foreground proposals
                with `proposal_boxes` (input-image pixels), `gt_classes` and `gt_masks`; in
                inference they have `pred_classes`.

        Returns:
            in training `{"loss_mask": scalar}`; in inference `instances`, which gain `pred_masks`,
            (R_i, 1, m, m) probabilities in the frame of each box.
        """
        if self.training:
            return {"loss_mask": self._loss(x, instances) * self.loss_weight}
        classes = [i.pred_classes for i in instances]
        probs = self._predicted_class_probs(self._logits(x, cat(classes)), cat(classes))
        # shape[0], unlike len(), is not a constant in a trace.
        for image_probs, image in zip(probs.split([c.shape[0] for c in classes]), instances):
            image.pred_masks = image_probs
        return instances

    def class_logits(self, x: Tensor, classes: Tensor) -> Tensor:
        """(R, C, h, w) features and (R,) classes -> (R, m, m) logits of the mask of each class.

        The last 1x1 conv computes one of its K outputs per RoI. A subclass with other layers has to
        override this method together with `layers`.
        """
        for name, layer in self.named_children():  # TorchScript can slice no Sequential
            if name != "predictor":
                x = layer(x)
        if self.predictor.out_channels == 1:  # class-agnostic
            return self.predictor(x)[:, 0]
        # index_select, unlike an index of length R, traces to any number of RoIs.
        weight = self.predictor.weight.flatten(1).index_select(0, classes)[:, :, None]
        bias = self.predictor.bias
        assert bias is not None  # for TorchScript, in which it is optional
        bias = bias.index_select(0, classes)[:, None, None]
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # no copy if x is channels-last
        logits = torch.baddbmm(bias, pixels, weight)
        return logits.view(x.shape[0], x.shape[2], x.shape[3])

    def _logits(self, x: Tensor, classes: Tensor) -> Tensor:
        """(R, 1, m, m) logits of each RoI's class, or (R, K + 1, m, m) where classes compete."""
        return (
            self.layers(x)
            if self.mask_loss == "softmax"
            else self.class_logits(x, classes)[:, None]
        )

    def _loss(self, x: Tensor, instances: list[Instances]) -> Tensor:
        instances = [i for i in instances if len(i) > 0]
        if not instances:
            return self.layers(x).sum() * 0  # DDP needs every parameter in the graph
        gt_classes = cat([i.gt_classes for i in instances])
        logits = self._logits(x, gt_classes)
        gt_masks = cat(
            [
                i.gt_masks.crop_and_resize(i.proposal_boxes.tensor, logits.shape[-1])
                for i in instances
            ]
        ).to(logits.device)
        self._log_accuracy(logits.detach(), gt_classes, gt_masks.bool())
        return _LOSSES[self.mask_loss](logits, gt_classes, gt_masks)

    def _predicted_class_probs(self, logits: Tensor, classes: Tensor) -> Tensor:
        """`_logits` -> (R, 1, m, m) float32 foreground probability of each RoI's class."""
        if self.mask_loss == "softmax":
            return _odds_on(logits.float().softmax(dim=1), classes)[:, None]
        return true_class_masks(logits, classes).float().sigmoid()[:, None]

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
    index = classes[:, None, None, None].expand(-1, 1, probs.shape[2], probs.shape[3])
    rival = probs.scatter(1, index, 0).amax(dim=[1])
    return own / (own + rival)
