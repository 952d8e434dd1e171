"""What the paper's ablations need beside the plugin: RoIPool and RoIWarp, an MLP mask head."""

from .config import add_paper_ablations_config
from .mlp_mask_head import MLPMaskHead
from .poolers import AblationRes5ROIHeads

__all__ = ["AblationRes5ROIHeads", "MLPMaskHead", "add_paper_ablations_config"]
