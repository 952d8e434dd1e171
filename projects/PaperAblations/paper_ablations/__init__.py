"""The components that the ablations need in addition to the plugin's."""

from .config import add_paper_ablations_config
from .mlp_mask_head import MLPMaskHead
from .poolers import AblationRes5ROIHeads

__all__ = ["AblationRes5ROIHeads", "MLPMaskHead", "add_paper_ablations_config"]
