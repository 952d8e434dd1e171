"""RoIAlign as detectron2's ROI heads call it, on one feature map or on the levels of a pyramid."""

from collections.abc import Sequence
from typing import Final

from detectron2.modeling.poolers import convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from torch import Tensor, nn

from ..errors import ConfigError
from ..layers.multiscale_roi_align import MultiScaleRoIAlign
from ..layers.roi_align import RoIAlign

# POOLER_TYPE in detectron2's configs -> `aligned`.
ALIGNED = {"ROIAlignV2": True, "ROIAlign": False}


class RoIAlignPooler(nn.Module):
    """RoIAlign with the interface of detectron2's `ROIPooler`, whose rule assigns the levels."""

    one_map: Final[bool]

    def __init__(
        self,
        *,
        output_size: int,
        spatial_scales: Sequence[float],
        sampling_ratio: int = 0,
        aligned: bool = True,
        mode: str = "avg",
        bin_stride: int = 1,
    ):
        """
        Args:
            output_size: the number of bins along each side, P.
            spatial_scales: for each map its number of pixels per input-image pixel (1/16 for C4).
            sampling_ratio, aligned, mode, bin_stride: as in `mrcnn_plugin.roi_align`.
        """
        super().__init__()
        self.one_map = len(spatial_scales) == 1
        self.roi_align = (RoIAlign if self.one_map else MultiScaleRoIAlign)(
            output_size,
            spatial_scales[0] if self.one_map else spatial_scales,
            sampling_ratio,
            aligned=aligned,
            mode=mode,
            bin_stride=bin_stride,
        )

    def forward(self, features: list[Tensor], boxes: list[Boxes]) -> Tensor:
        """
        Args:
            features: one (N, C, H_l, W_l) map per scale.
            boxes: N `Boxes` in input-image pixels, float32 whatever the dtype of the features.

        Returns:
            (R, C, P / bin_stride, P / bin_stride), R the number of boxes, in their order. No
            gradient flows to the boxes (Mask R-CNN, Sec. 3).
        """
        rois = convert_boxes_to_pooler_format(boxes).detach()
        if self.one_map:  # a constant, so TorchScript compiles one of the two calls
            pooled = self.roi_align(features[0], rois)
        else:
            pooled = self.roi_align(features, rois)
        return pooled


def check_pooler_type(pooler_type: str) -> None:
    """Reject the pooler types of detectron2's own ROI heads that are not RoIAlign.

    Raises:
        ConfigError: the type is neither 'ROIAlignV2' nor 'ROIAlign'.
    """
    if pooler_type not in ALIGNED:
        raise ConfigError(
            f"POOLER_TYPE is '{pooler_type}'; expected 'ROIAlignV2' (half-pixel aligned) or "
            "'ROIAlign'. For others set MODEL.ROI_HEADS.NAME to one of detectron2's own heads."
        )
