"""Mask R-CNN on a ResNet-C4 as a plugin of detectron2.

`roi_align`, `multiscale_roi_align`, their modules and `nms` need PyTorch only, and
`accelerate_torchvision` needs torchvision too. Everything else needs detectron2 as well: if it is
installed, importing this package registers the components with it by name; if it is not, the first
use of a component raises an ImportError that says how to install it.
"""

from importlib.util import find_spec as _find_spec

__version__ = "0.1.0"

__all__ = [
    "MRCNNRPN",
    "MRCNNCascadeROIHeads",
    "MRCNNMaskFCNHead",
    "MRCNNRPNHead",
    "MRCNNRes5ROIHeads",
    "MRCNNStandardROIHeads",
    "MultiScaleRoIAlign",
    "Predictor",
    "RoIAlign",
    "RoIAlignPooler",
    "__version__",
    "accelerate_torchvision",
    "add_mrcnn_config",
    "batched_nms",
    "build_mrcnn_resnet_c4_backbone",
    "fold_frozen_bn",
    "get_config_file",
    "multiscale_roi_align",
    "nms",
    "res5_stage",
    "resnet_c4",
    "roi_align",
    "use_roi_align",
]

_INSTALL = {
    "torch": "pip install torch torchvision",
    "torchvision": "pip install torchvision (the release that belongs to your torch)",
    "detectron2": "install it as detectron2.readthedocs.io/en/latest/tutorials/install.html says, "
    "or run `make setup` in a clone of this project",
}


def _check_installed(*packages: str) -> None:
    for package in packages:
        if _find_spec(package) is None:
            raise ImportError(
                f"mrcnn_plugin needs {package}, which is not installed: {_INSTALL[package]}"
            )


_check_installed("torch")

from .config_file import get_config_file  # noqa: E402
from .layers.accelerate_torchvision import accelerate_torchvision  # noqa: E402
from .layers.multiscale_roi_align import MultiScaleRoIAlign, multiscale_roi_align  # noqa: E402
from .layers.nms import batched_nms, nms  # noqa: E402
from .layers.roi_align import RoIAlign, roi_align  # noqa: E402

if _find_spec("detectron2") and _find_spec("torchvision"):
    from .checkpoint import torchvision as _  # noqa: F401  registers torchvision:// addresses
    from .config import add_mrcnn_config
    from .inference.predictor import Predictor
    from .modeling.backbone import build_mrcnn_resnet_c4_backbone, res5_stage, resnet_c4
    from .modeling.frozen_bn import fold_frozen_bn
    from .modeling.mask_head import MRCNNMaskFCNHead
    from .modeling.pooler import RoIAlignPooler
    from .modeling.roi_heads import MRCNNCascadeROIHeads, MRCNNRes5ROIHeads, MRCNNStandardROIHeads
    from .modeling.rpn import MRCNNRPN, MRCNNRPNHead
    from .modeling.use_roi_align import use_roi_align
else:

    def __getattr__(name: str):
        if name in __all__:
            _check_installed("detectron2", "torchvision")
        raise AttributeError(f"module 'mrcnn_plugin' has no attribute {name!r}")
