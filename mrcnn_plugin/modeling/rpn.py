"""Region Proposal Network with the head (4k + 2k outputs) and loss of Faster R-CNN.

Anchors, sampling and box coding are those of detectron2's `RPN`. So are the results of matching,
which never builds the matrix of all objects and anchors, and of the selection of proposals, whose
NMS ends once enough boxes are kept.

Shape shorthand: N images, k anchors per location, H x W the size of the feature map.
"""

import torch
from detectron2.config import configurable
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY, StandardRPNHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..config import check_mrcnn_config
from ..errors import ConfigError
from .losses import rpn_cls_loss, rpn_reg_loss
from .matching import match_boxes
from .proposals import select_proposals


@RPN_HEAD_REGISTRY.register()
class MRCNNRPNHead(StandardRPNHead):
    """3x3 conv, then two 1x1 convs: `reg` with 4k, `cls` with 2k outputs (Faster R-CNN, Sec. 3.1).

    The `cls` layer (`objectness_logits`) gives each anchor two scores: channels 0 to k-1 score it
    as background, channels k to 2k-1 as object. The softmax over the two equals the sigmoid of
    their difference. The head returns that difference, so its output means what it means in
    detectron2: (N, k, H, W) log-odds of "object".
    """

    @configurable
    def __init__(self, *, in_channels: int, num_anchors: int, box_dim: int = 4, conv_dims=(-1,)):
        """Arguments as in detectron2's `StandardRPNHead`; `num_anchors` is k."""
        super().__init__(
            in_channels=in_channels, num_anchors=num_anchors, box_dim=box_dim, conv_dims=conv_dims
        )
        self.objectness_logits = nn.Conv2d(
            self.objectness_logits.in_channels, 2 * num_anchors, kernel_size=1
        )
        nn.init.normal_(self.objectness_logits.weight, std=0.01)
        nn.init.zeros_(self.objectness_logits.bias)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level: (N, C, H, W) -> (N, k, H, W) object log-odds and (N, 4k, H, W) deltas."""
        log_odds: list[Tensor] = []
        deltas: list[Tensor] = []
        for feature in features:  # not super().forward, which TorchScript cannot compile
            hidden = self.conv(feature)
            background_score, object_score = self.objectness_logits(hidden).chunk(2, dim=1)
            log_odds.append(object_score - background_score)
            deltas.append(self.anchor_deltas(hidden))
        return log_odds, deltas


@PROPOSAL_GENERATOR_REGISTRY.register()
class MRCNNRPN(RPN):
    """detectron2's RPN with the loss of Faster R-CNN, eq. 1.

    `L = 1/N_cls sum L_cls + lambda 1/N_reg sum p* L_reg` per image, averaged over images.
    detectron2 divides both terms by N_cls, which is `RPN_LAMBDA 1` with `RPN_N_REG 256`.
    """

    @configurable
    def __init__(self, *, reg_lambda: float = 10.0, n_reg: float = 0.0, **kwargs):
        """
        Args:
            reg_lambda: lambda, the weight of the regression term.
            n_reg: N_reg; 0 means the number of anchor locations, H * W summed over levels.
            kwargs: as in detectron2's `RPN`. `batch_size_per_image` is N_cls, and
                `smooth_l1_beta` is the parameter of R, the robust loss.

        Raises:
            ConfigError: `n_reg` is negative, or the box loss is not smooth L1.
        """
        super().__init__(**kwargs)
        if n_reg < 0:
            raise ConfigError(f"MODEL.MRCNN.RPN_N_REG is {n_reg}; expected 0 (locations) or more")
        if self.box_reg_loss_type != "smooth_l1":
            raise ConfigError(
                f"MODEL.RPN.BBOX_REG_LOSS_TYPE is '{self.box_reg_loss_type}'; expected "
                "'smooth_l1' (Faster R-CNN, eq. 1). For others set MODEL.PROPOSAL_GENERATOR.NAME "
                "to 'RPN'."
            )
        self.reg_lambda = reg_lambda
        self.n_reg = n_reg

    @classmethod
    def from_config(cls, cfg, input_shape):
        check_mrcnn_config(cfg)
        ret = super().from_config(cfg, input_shape)
        ret["reg_lambda"] = cfg.MODEL.MRCNN.RPN_LAMBDA
        ret["n_reg"] = cfg.MODEL.MRCNN.RPN_N_REG
        return ret

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Arguments, results and random numbers as in detectron2's `RPN`, in less memory.

        Returns:
            per image, for A anchors of all levels: (A,) int8 labels (1 object, 0 background, -1 not
            sampled), and the (A, 4) ground-truth boxes that they match, zeros without objects.
        """
        all_anchors = Boxes.cat(anchors)
        sampled_labels, matched_boxes = [], []
        for image in gt_instances:
            matches, labels = match_boxes(self.anchor_matcher, image.gt_boxes, all_anchors)
            if self.anchor_boundary_thresh >= 0:
                inside = all_anchors.inside_box(image.image_size, self.anchor_boundary_thresh)
                labels[~inside] = -1
            sampled_labels.append(self._subsample_labels(labels))
            boxes = image.gt_boxes.tensor
            matched_boxes.append(
                boxes[matches] if len(boxes) else torch.zeros_like(all_anchors.tensor)
            )
        return sampled_labels, matched_boxes

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """Arguments as in detectron2's `RPN.losses`; returns `loss_rpn_cls` and `loss_rpn_loc`."""
        labels = torch.stack(gt_labels)  # (N, A) over all levels
        num_images = len(labels)
        positive = labels == 1
        storage = get_event_storage()
        # One device synchronization for both.
        num_positive, num_negative = torch.stack([positive.sum(), (labels == 0).sum()]).tolist()
        storage.put_scalar("rpn/num_pos_anchors", num_positive / num_images)
        storage.put_scalar("rpn/num_neg_anchors", num_negative / num_images)

        image_index, anchor_index = positive.nonzero(as_tuple=True)
        positive_anchors = Boxes.cat(anchors).tensor[anchor_index]
        positive_gt_boxes = torch.stack(gt_boxes)[image_index, anchor_index]
        losses = {
            "loss_rpn_cls": rpn_cls_loss(
                torch.cat(pred_objectness_logits, dim=1), labels, n_cls=self.batch_size_per_image
            ),
            "loss_rpn_loc": rpn_reg_loss(
                torch.cat(pred_anchor_deltas, dim=1)[image_index, anchor_index],
                self.box2box_transform.get_deltas(positive_anchors, positive_gt_boxes),
                num_images=num_images,
                lam=self.reg_lambda,
                n_reg=self.n_reg or self._num_locations(anchors),
                beta=self.smooth_l1_beta,
            ),
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Arguments and results as in detectron2's `RPN`; see `select_proposals`."""
        if torch.jit.is_tracing():
            return super().predict_proposals(
                anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes
            )
        return select_proposals(
            self._decode_proposals(anchors, pred_anchor_deltas),
            pred_objectness_logits,
            image_sizes,
            nms_threshold=self.nms_thresh,
            max_before_nms=self.pre_nms_topk[self.training],
            max_kept=self.post_nms_topk[self.training],
            min_box_size=self.min_box_size,
            training=self.training,
        )

    def _num_locations(self, anchors: list[Boxes]) -> int:
        """The number of anchor locations: H * W summed over levels."""
        per_location = self.anchor_generator.num_anchors
        return sum(len(level) // k for level, k in zip(anchors, per_location, strict=True))
