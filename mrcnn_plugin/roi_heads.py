"""RoIAlign -> res5 -> {class + box, mask}: the head on the ResNet-C4 backbone (Mask R-CNN, Fig. 4, left)."""

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.poolers import convert_boxes_to_pooler_format
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, Res5ROIHeads, build_mask_head
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from .backbone import res5_stage, stage_args_from_config
from .roi_align import RoIAlign

_ALIGNED = {"ROIAlignV2": True, "ROIAlign": False}


class RoIAlignPooler(nn.Module):
    """RoIAlign for one feature map, called as detectron2 calls its `ROIPooler`."""

    def __init__(self, **roi_align_args):
        """Arguments: those of `mrcnn_plugin.RoIAlign`."""
        super().__init__()
        self.roi_align = RoIAlign(**roi_align_args)

    def forward(self, features: list[Tensor], boxes: list[Boxes]) -> Tensor:
        """
        Args:
            features: one (N, C, H, W) map.
            boxes: N `Boxes`, input-image pixels, float32 whatever the features are.

        Returns:
            (sum of boxes, C, h, w), in the order of `boxes`.
        """
        return self.roi_align(features[0], convert_boxes_to_pooler_format(boxes))


@ROI_HEADS_REGISTRY.register()
class MRCNNRes5ROIHeads(Res5ROIHeads):
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
        ret = super(Res5ROIHeads, cls).from_config(cfg)  # past Res5ROIHeads, whose parts it replaces
        (in_feature,) = ret["in_features"] = cfg.MODEL.ROI_HEADS.IN_FEATURES
        stride = cfg.MODEL.MRCNN.RES5_STRIDE
        resolution = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
        _check_config(cfg)

        stage_args = stage_args_from_config(cfg)
        reads_every_bin = stride == 1 or stage_args["depth"] < 50 or not stage_args["stride_in_1x1"]
        ret["pooler"] = RoIAlignPooler(
            output_size=resolution,
            spatial_scale=1.0 / input_shape[in_feature].stride,
            sampling_ratio=cfg.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO,
            aligned=_ALIGNED[cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE],
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


def _check_config(cfg) -> None:
    """Refuse, with the mend, what the C4 head cannot be built from."""
    box_head, mrcnn = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.MRCNN
    if cfg.MODEL.KEYPOINT_ON:
        raise ValueError("MODEL.KEYPOINT_ON: the C4 head has no keypoint branch; set it to False")
    if box_head.POOLER_TYPE not in _ALIGNED:
        raise ValueError(
            f"MODEL.ROI_BOX_HEAD.POOLER_TYPE is '{box_head.POOLER_TYPE}'; expected 'ROIAlignV2' "
            "(half-pixel aligned) or 'ROIAlign'. Others: MODEL.ROI_HEADS.NAME 'Res5ROIHeads'"
        )
    if mrcnn.RES5_STRIDE not in (1, 2) or box_head.POOLER_RESOLUTION % mrcnn.RES5_STRIDE:
        raise ValueError(
            f"MODEL.MRCNN.RES5_STRIDE is {mrcnn.RES5_STRIDE} on POOLER_RESOLUTION "
            f"{box_head.POOLER_RESOLUTION}; expected stride 1 (the paper: 7x7 bins) or stride 2 "
            "on an even number of bins (detectron2: 14x14)"
        )
