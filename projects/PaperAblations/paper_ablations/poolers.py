"""RoIPool and RoIWarp in the C4 head (Mask R-CNN, Table 2c)."""

import torch
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.poolers import convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from torch import Tensor, nn
from torchvision.ops import RoIPool

from mrcnn_plugin import MRCNNRes5ROIHeads, RoIAlign
from mrcnn_plugin.errors import ConfigError


class RoIPoolPooler(nn.Module):
    """RoIPool of Fast R-CNN, the maximum over bins that are rounded to whole pixels."""

    def __init__(self, output_size: int, spatial_scale: float):
        super().__init__()
        self.pool = RoIPool(output_size, spatial_scale)

    def forward(self, features: list[Tensor], boxes: list[Boxes]) -> Tensor:
        """One (N, C, H, W) map and N `Boxes` in image pixels -> (R, C, P, P)."""
        return self.pool(features[0], convert_boxes_to_pooler_format(boxes).detach())


class RoIWarpPooler(nn.Module):
    """RoIWarp of MNC, which rounds the RoI as RoIPool does and samples it bilinearly."""

    def __init__(self, output_size: int, spatial_scale: float, sampling_ratio: int, mode: str):
        super().__init__()
        self.spatial_scale = spatial_scale
        self.roi_align = RoIAlign(output_size, 1.0, sampling_ratio, mode=mode)

    def forward(self, features: list[Tensor], boxes: list[Boxes]) -> Tensor:
        """One (N, C, H, W) map and N `Boxes` in image pixels -> (R, C, P, P)."""
        rois = convert_boxes_to_pooler_format(boxes).detach()
        return self.roi_align(features[0], quantise(rois, self.spatial_scale))


def quantise(rois: Tensor, spatial_scale: float) -> Tensor:
    """Round the corners of RoIs as RoIPool does: (R, 5) in image pixels -> in feature pixels.

    The pixels of both corners belong to the RoI, so it is at least one pixel wide.
    """
    first = torch.round(rois[:, 1:3] * spatial_scale)
    last = torch.maximum(torch.round(rois[:, 3:5] * spatial_scale), first)
    return torch.cat([rois[:, :1], first, last + 1], dim=1)


@ROI_HEADS_REGISTRY.register()
class AblationRes5ROIHeads(MRCNNRes5ROIHeads):
    """`MRCNNRes5ROIHeads` whose pooler is `MODEL.PAPER_ABLATIONS.POOLER`."""

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        box_head = cfg.MODEL.ROI_BOX_HEAD
        size = box_head.POOLER_RESOLUTION
        scale = 1.0 / input_shape[cfg.MODEL.ROI_HEADS.IN_FEATURES[0]].stride
        kind = cfg.MODEL.PAPER_ABLATIONS.POOLER
        if kind not in ("RoIAlign", "RoIWarp", "RoIPool"):
            raise ConfigError(
                f"MODEL.PAPER_ABLATIONS.POOLER is '{kind}'; expected RoIAlign, RoIWarp or RoIPool"
            )
        if kind == "RoIPool":
            ret["pooler"] = RoIPoolPooler(size, scale)
        elif kind == "RoIWarp":
            ret["pooler"] = RoIWarpPooler(
                size, scale, box_head.POOLER_SAMPLING_RATIO, cfg.MODEL.MRCNN.ROI_ALIGN_MODE
            )
        return ret
