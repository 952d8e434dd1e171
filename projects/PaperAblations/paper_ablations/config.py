"""Config keys of the ablations."""

from detectron2.config import CfgNode as CN


def add_paper_ablations_config(cfg: CN) -> None:
    """Add `MODEL.PAPER_ABLATIONS`, in place; call it after `add_mrcnn_config`."""
    cfg.MODEL.PAPER_ABLATIONS = CN()
    # "RoIAlign", "RoIWarp" (quantised RoI, bilinear) or "RoIPool" (quantised RoI and bins, max);
    # avg or max of the first two by MODEL.MRCNN.ROI_ALIGN_MODE (Mask R-CNN, Table 2c).
    cfg.MODEL.PAPER_ABLATIONS.POOLER = "RoIAlign"
    # Sizes of the hidden fc layers of MLPMaskHead (Mask R-CNN, Table 2e).
    cfg.MODEL.PAPER_ABLATIONS.MLP_DIMS = [1024, 1024]
    # m of the m x m masks of MLPMaskHead.
    cfg.MODEL.PAPER_ABLATIONS.MLP_MASK_SIZE = 28
