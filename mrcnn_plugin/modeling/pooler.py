"""RoIAlign as detectron2's ROI heads call it: on one feature map, or on the levels of a pyramid."""

from collections.abc import Sequence

from detectron2.modeling.poolers import convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from torch import Tensor, nn

from ..layers.multiscale_roi_align import MultiScaleRoIAlign
from ..layers.roi_align import RoIAlign

# POOLER_TYPE in detectron2's configs -> `aligned`.
ALIGNED = {"ROIAlignV2": True, "ROIAlign": False}


class RoIAlignPooler(nn.Module):
    """Called like detectron2's `ROIPooler`; levels are assigned by its rule (FPN, eq. 1)."""

    def __init__(self, *, output_size: int, spatial_scales: Sequence[float], **options):
        """
        Args:
            output_size: bins along each side, P.
            spatial_scales: feature-map pixels for one input-image pixel, of each map (1/16 for C4).
            options: `sampling_ratio`, `aligned`, `mode`, `bin_stride` of `mrcnn_plugin.roi_align`.
        """
        super().__init__()
        if len(spatial_scales) == 1:
            self.roi_align = RoIAlign(output_size, spatial_scales[0], **options)
        else:
            self.roi_align = MultiScaleRoIAlign(output_size, spatial_scales, **options)

    def forward(self, features: list[Tensor], boxes: list[Boxes]) -> Tensor:
        """
        Args:
            features: (N, C, H_l, W_l) maps, as many as there are scales.
            boxes: N `Boxes`, input-image pixels, float32 whatever the features are. No gradient
                flows to them.

        Returns:
            (sum of boxes, C, P, P), in the order of `boxes`.
        """
        rois = convert_boxes_to_pooler_format(boxes).detach()  # boxes get no gradient (Sec. 3)
        one_map = isinstance(self.roi_align, RoIAlign)
        return self.roi_align(features[0] if one_map else features, rois)


def check_pooler_type(pooler_type: str) -> None:
    """Refuse poolers other than RoIAlign, which detectron2's own ROI heads have.

    Raises:
        ValueError: the type is neither 'ROIAlignV2' nor 'ROIAlign'.
    """
    if pooler_type not in ALIGNED:
        raise ValueError(
            f"POOLER_TYPE is '{pooler_type}'; expected 'ROIAlignV2' (half-pixel aligned) or "
            "'ROIAlign'. For others set MODEL.ROI_HEADS.NAME to detectron2's own heads"
        )
