"""Mask R-CNN on a ResNet-C4 as a plugin of detectron2.

Importing this package registers its components with detectron2 by name. `add_mrcnn_config` adds
the config keys; `roi_align` and `RoIAlign` are the op alone.
"""

import importlib.util

_MENDS = {
    "torch": "pip install torch torchvision",
    "torchvision": "pip install torchvision (the release that belongs to your torch)",
    "detectron2": "install it as detectron2.readthedocs.io/en/latest/tutorials/install.html says, "
    "or run `make setup` in a clone of this project",
}
for _package, _mend in _MENDS.items():
    if importlib.util.find_spec(_package) is None:
        raise ImportError(f"mrcnn_plugin needs {_package}, which is not installed: {_mend}")

from .layers.roi_align import RoIAlign, roi_align  # noqa: E402, I001  first: it loads the compiled op
from .modeling.backbone import build_mrcnn_resnet_c4_backbone  # noqa: E402
from .config import add_mrcnn_config  # noqa: E402
from .modeling.mask_head import MRCNNMaskFCNHead  # noqa: E402
from .layers.multiscale_roi_align import MultiScaleRoIAlign, multiscale_roi_align  # noqa: E402
from .modeling.roi_heads import (  # noqa: E402
    MRCNNCascadeROIHeads,
    MRCNNRes5ROIHeads,
    MRCNNStandardROIHeads,
)
from .modeling.rpn import MRCNNRPN, MRCNNRPNHead  # noqa: E402
from .checkpoint import torchvision as _  # noqa: E402, F401  registers torchvision:// addresses
from .modeling.use_roi_align import use_roi_align  # noqa: E402

__all__ = [
    "MRCNNRPN",
    "MRCNNCascadeROIHeads",
    "MRCNNMaskFCNHead",
    "MRCNNRPNHead",
    "MRCNNRes5ROIHeads",
    "MRCNNStandardROIHeads",
    "MultiScaleRoIAlign",
    "RoIAlign",
    "add_mrcnn_config",
    "build_mrcnn_resnet_c4_backbone",
    "multiscale_roi_align",
    "roi_align",
    "use_roi_align",
]
