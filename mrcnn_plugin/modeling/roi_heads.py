"""RoIAlign -> res5 -> {class + box, mask}: the head on ResNet-C4 (Mask R-CNN, Fig. 4, left).

The heads on a feature pyramid (Fig. 4, right) are detectron2's, with this plugin's RoIAlign.
"""

from typing import Final

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNOutputLayers,
    Res5ROIHeads,
    StandardROIHeads,
    build_mask_head,
)
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ..config import check_mrcnn_config
from ..errors import ConfigError
from .backbone import res5_stage, stage_args_from_config
from .matching import match_boxes
from .pooler import ALIGNED, RoIAlignPooler, check_pooler_type
from .roi_bitmasks import RoIBitMasks


class _ClassCheck:
    """Mixin for ROI heads that raises if a ground-truth class is outside the model's classes."""

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """As in detectron2, which would silently train class K as background.

        Raises:
            ConfigError: a ground-truth class is outside [0, num_classes).
        """
        classes = torch.cat([t.gt_classes for t in targets])
        if len(classes):
            lowest, highest = torch.stack(classes.aminmax()).tolist()  # one device synchronization
            if lowest < 0 or highest >= self.num_classes:
                raise ConfigError(
                    f"The ground-truth classes span {lowest} to {highest}, but the model has "
                    f"classes 0 to {self.num_classes - 1}. Set MODEL.ROI_HEADS.NUM_CLASSES to the "
                    "number of categories in the dataset."
                )
        return super().label_and_sample_proposals(proposals, targets)


class _BoundedSampling:
    """Mixin for ROI heads: matches and samples proposals in memory independent of the objects."""

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Arguments, results and random numbers as in detectron2's `ROIHeads`.

        Bitmasks of the sampled proposals refer to those in `targets` (`RoIBitMasks`).
        """
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        sampled = [self._label_and_sample(*image) for image in zip(proposals, targets)]
        # One device synchronization for all images.
        counts = [(image.gt_classes == self.num_classes).sum() for image in sampled]
        background = torch.stack(counts).tolist()
        foreground = [len(image) - count for image, count in zip(sampled, background)]
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", sum(foreground) / len(sampled))
        storage.put_scalar("roi_head/num_bg_samples", sum(background) / len(sampled))
        return sampled

    def _label_and_sample(self, proposals: Instances, targets: Instances) -> Instances:
        """The sampled proposals of one image, with every `gt_*` field of their objects."""
        matches, labels = match_boxes(
            self.proposal_matcher, targets.gt_boxes, proposals.proposal_boxes
        )
        sampled_index, classes = self._sample_proposals(matches, labels, targets.gt_classes)
        sampled = proposals[sampled_index]
        sampled.gt_classes = classes
        if len(targets):
            objects = matches[sampled_index]
            for name, value in targets.get_fields().items():
                if name.startswith("gt_") and not sampled.has(name):
                    is_bitmasks = type(value) is BitMasks
                    sampled.set(
                        name, RoIBitMasks(value, objects) if is_bitmasks else value[objects]
                    )
        return sampled


class Float32OutputLayers(FastRCNNOutputLayers):
    """detectron2's two linear layers, in float32 under autocast.

    They cost next to nothing, while scores in half precision would be equal for many detections.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, C) of any floating dtype -> (R, K + 1) scores and (R, 4K) deltas."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.cls_score.weight.dtype))


@ROI_HEADS_REGISTRY.register()
class MRCNNRes5ROIHeads(_ClassCheck, _BoundedSampling, Res5ROIHeads):
    """Class, box and mask branches on one res5, with this plugin's RoIAlign.

        RoIAlign 7x7x1024 -> res5, stride 1 -> 7x7x2048 -> average pool -> class scores, box deltas
                                                        -> mask head

    Arguments, sampling, losses and inference are those of detectron2's `Res5ROIHeads`. res5 has
    twice the channels of the backbone's `res4`, whatever backbone that is.

    `MODEL.MRCNN.RES5_STRIDE 2` on a 14x14 grid is detectron2's head. If the stride is in res5's
    first 1x1 convs (`STRIDE_IN_1X1`), they read only every second bin in x and y. Then only those
    bins are computed and res5 runs with stride 1, which gives the same result for a quarter of the
    work.
    """

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        _check_c4_config(cfg)
        # Skips Res5ROIHeads.from_config, whose pooler, res5 and branches are replaced below.
        ret = super(Res5ROIHeads, cls).from_config(cfg)
        ret["in_features"] = cfg.MODEL.ROI_HEADS.IN_FEATURES
        res4 = input_shape[cfg.MODEL.ROI_HEADS.IN_FEATURES[0]]
        stride = cfg.MODEL.MRCNN.RES5_STRIDE
        resolution = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION

        if res4.channels % 4:
            raise ConfigError(
                f"The backbone's output has {res4.channels} channels; expected a multiple of 4, "
                "as a ResNet's res4 has four times the channels of res2."
            )
        stage_args = {**stage_args_from_config(cfg), "res2_out_channels": res4.channels // 4}
        reads_every_bin = stride == 1 or stage_args["depth"] < 50 or not stage_args["stride_in_1x1"]
        ret["pooler"] = RoIAlignPooler(
            output_size=resolution,
            spatial_scales=[1.0 / res4.stride],
            sampling_ratio=cfg.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO,
            aligned=ALIGNED[cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE],
            mode=cfg.MODEL.MRCNN.ROI_ALIGN_MODE,
            bin_stride=1 if reads_every_bin else stride,
        )
        ret["res5"] = res5_stage(stride=stride if reads_every_bin else 1, **stage_args)
        channels = ret["res5"][-1].out_channels
        ret["box_predictor"] = Float32OutputLayers(
            cfg, ShapeSpec(channels=channels, height=1, width=1)
        )
        if cfg.MODEL.MASK_ON:
            side = resolution // stride
            ret["mask_head"] = build_mask_head(
                cfg, ShapeSpec(channels=channels, height=side, width=side)
            )
        return ret


def _check_c4_config(cfg) -> None:
    """Reject configs that the C4 head cannot be built from."""
    check_mrcnn_config(cfg)
    stride, bins = cfg.MODEL.MRCNN.RES5_STRIDE, cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
    check_pooler_type(cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE)
    if cfg.MODEL.KEYPOINT_ON:
        raise ConfigError(
            "MODEL.KEYPOINT_ON is True, but the C4 head has no keypoint branch. Set it to False."
        )
    if len(cfg.MODEL.ROI_HEADS.IN_FEATURES) != 1:
        raise ConfigError(
            f"MODEL.ROI_HEADS.IN_FEATURES is {cfg.MODEL.ROI_HEADS.IN_FEATURES}, but the C4 head "
            "reads one feature map. Set it to ['res4']."
        )
    if bins % stride:
        raise ConfigError(
            f"MODEL.MRCNN.RES5_STRIDE is {stride} and POOLER_RESOLUTION is {bins}; expected "
            "stride 1 (7x7 bins in Mask R-CNN, Fig. 4) or stride 2 on an even number of bins "
            "(14x14 in detectron2)."
        )


class _RoIAlignOnPyramid(_ClassCheck, _BoundedSampling):
    """Mixin for detectron2's heads on feature pyramids: pools all levels in one call of our op.

    `MODEL.MRCNN.ROI_ALIGN_MODE` and the `POOLER_*` keys of each branch apply.
    """

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        check_mrcnn_config(cfg)
        ret = super().from_config(cfg, input_shape)
        scales = [1.0 / input_shape[name].stride for name in cfg.MODEL.ROI_HEADS.IN_FEATURES]
        for branch in ("box", "mask", "keypoint"):
            if ret.get(f"{branch}_pooler") is None:
                continue
            keys = cfg.MODEL[f"ROI_{branch.upper()}_HEAD"]  # ROI_BOX_HEAD, ROI_MASK_HEAD, ...
            check_pooler_type(keys.POOLER_TYPE)
            ret[f"{branch}_pooler"] = RoIAlignPooler(
                output_size=keys.POOLER_RESOLUTION,
                spatial_scales=scales,
                sampling_ratio=keys.POOLER_SAMPLING_RATIO,
                aligned=ALIGNED[keys.POOLER_TYPE],
                mode=cfg.MODEL.MRCNN.ROI_ALIGN_MODE,
            )
        return ret


@ROI_HEADS_REGISTRY.register()
class MRCNNStandardROIHeads(_RoIAlignOnPyramid, StandardROIHeads):
    """detectron2's `StandardROIHeads` (box, mask, keypoint on FPN) with this plugin's RoIAlign."""

    # TorchScript needs them as constants, which detectron2 declares for its own class only.
    mask_on: Final[bool]
    keypoint_on: Final[bool]


@ROI_HEADS_REGISTRY.register()
class MRCNNCascadeROIHeads(_RoIAlignOnPyramid, CascadeROIHeads):
    """detectron2's `CascadeROIHeads` with this plugin's RoIAlign."""
