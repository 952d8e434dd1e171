"""RoIAlign -> res5 -> {class + box, mask}: the head on ResNet-C4 (Mask R-CNN, Fig. 4, left).

The heads on a feature pyramid (Fig. 4, right) are detectron2's, with this plugin's RoIAlign.
"""

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNOutputLayers,
    Res5ROIHeads,
    StandardROIHeads,
    build_mask_head,
)
from detectron2.structures import Instances

from .backbone import res5_stage, stage_args_from_config
from .pooler import ALIGNED, RoIAlignPooler, check_pooler_type


class _ClassCheck:
    """Mixed into ROI heads: a class outside the model's would train as background, silently."""

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """As in detectron2, after a check that it lacks: class K would train as background.

        Raises:
            ValueError: a ground-truth class is outside [0, num_classes).
        """
        classes = torch.cat([t.gt_classes for t in targets])
        if len(classes) and not 0 <= classes.min() <= classes.max() < self.num_classes:
            raise ValueError(
                f"ground-truth classes span [{classes.min()}, {classes.max()}], but the model has "
                f"{self.num_classes} classes (0 to {self.num_classes - 1}): set "
                "MODEL.ROI_HEADS.NUM_CLASSES to the number of categories in the data set"
            )
        return super().label_and_sample_proposals(proposals, targets)


@ROI_HEADS_REGISTRY.register()
class MRCNNRes5ROIHeads(_ClassCheck, Res5ROIHeads):
    """Class, box and mask branches on one res5, with this plugin's RoIAlign.

    RoIAlign 7x7x1024 -> res5 (stride 1) -> 7x7x2048 -> average pool -> class scores and box deltas;
    the same 7x7x2048 -> mask head. Sampling, losses and inference are detectron2's.

    `res5_stride=2` on a 14x14 grid is detectron2's head. With the stride in res5's first 1x1 convs
    (`STRIDE_IN_1X1`) these read every second bin in x and y alone, so only those bins are computed
    and res5 runs with stride 1: the same numbers for a quarter of the work.
    """

    @configurable
    def __init__(self, **kwargs):
        """Arguments as in detectron2's `Res5ROIHeads`."""
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        _check_c4_config(cfg)
        # From ROIHeads: the parts that Res5ROIHeads would add are made here.
        ret = super(Res5ROIHeads, cls).from_config(cfg)
        (in_feature,) = ret["in_features"] = cfg.MODEL.ROI_HEADS.IN_FEATURES
        stride = cfg.MODEL.MRCNN.RES5_STRIDE
        resolution = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION

        stage_args = stage_args_from_config(cfg)
        reads_every_bin = stride == 1 or stage_args["depth"] < 50 or not stage_args["stride_in_1x1"]
        ret["pooler"] = RoIAlignPooler(
            output_size=resolution,
            spatial_scales=[1.0 / input_shape[in_feature].stride],
            sampling_ratio=cfg.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO,
            aligned=ALIGNED[cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE],
            mode=cfg.MODEL.MRCNN.ROI_ALIGN_MODE,
            bin_stride=1 if reads_every_bin else stride,
        )
        ret["res5"] = res5_stage(stride=stride if reads_every_bin else 1, **stage_args)
        channels = ret["res5"][-1].out_channels
        ret["box_predictor"] = FastRCNNOutputLayers(
            cfg, ShapeSpec(channels=channels, height=1, width=1)
        )
        if cfg.MODEL.MASK_ON:
            side = resolution // stride
            ret["mask_head"] = build_mask_head(
                cfg, ShapeSpec(channels=channels, height=side, width=side)
            )
        return ret


def _check_c4_config(cfg) -> None:
    """Refuse, with the mend, what the C4 head cannot be built from."""
    stride, bins = cfg.MODEL.MRCNN.RES5_STRIDE, cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
    check_pooler_type(cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE)
    if cfg.MODEL.KEYPOINT_ON:
        raise ValueError("MODEL.KEYPOINT_ON: the C4 head has no keypoint branch; set it to False")
    if stride not in (1, 2) or bins % stride:
        raise ValueError(
            f"MODEL.MRCNN.RES5_STRIDE is {stride} on POOLER_RESOLUTION {bins}; expected stride 1 "
            "(the paper: 7x7 bins) or stride 2 on an even number of bins (detectron2: 14x14)"
        )


class _RoIAlignOnPyramid(_ClassCheck):
    """Mixed into detectron2's heads for feature pyramids: RoIAlign is this plugin's, in one call.

    `MODEL.MRCNN.ROI_ALIGN_MODE` and the `POOLER_*` keys of each branch apply.
    """

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        ret = super().from_config(cfg, input_shape)
        scales = [1.0 / input_shape[name].stride for name in cfg.MODEL.ROI_HEADS.IN_FEATURES]
        for branch in ("box", "mask", "keypoint"):
            if ret.get(f"{branch}_pooler") is None:
                continue
            keys = cfg.MODEL[f"ROI_{branch.upper()}_HEAD"]
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


@ROI_HEADS_REGISTRY.register()
class MRCNNCascadeROIHeads(_RoIAlignOnPyramid, CascadeROIHeads):
    """detectron2's `CascadeROIHeads` with this plugin's RoIAlign."""
