"""Predicts masks by fully connected layers, which lose the layout (Mask R-CNN, Table 2e)."""

from itertools import pairwise

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY, BaseMaskRCNNHead
from fvcore.nn import weight_init
from torch import Tensor, nn

from mrcnn_plugin import MRCNNMaskFCNHead
from mrcnn_plugin.modeling.losses import true_class_masks


@ROI_MASK_HEAD_REGISTRY.register()
class MLPMaskHead(MRCNNMaskFCNHead):
    """fc layers with ReLU, then one fc layer to K masks of m x m. The rest is its parent's."""

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, num_classes: int, dims: list[int], mask_size: int
    ):
        """
        Args:
            input_shape: channels, height and width of the RoI features.
            num_classes: K.
            dims: the sizes of the hidden layers.
            mask_size: m, the side of the masks.
        """
        BaseMaskRCNNHead.__init__(self)
        self.mask_loss = "sigmoid"
        self.mask_size = mask_size
        sizes = [input_shape.channels * input_shape.height * input_shape.width, *dims]
        self.fcs = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.predictor = nn.Linear(sizes[-1], num_classes * mask_size**2)
        for fc in self.fcs:
            weight_init.c2_xavier_fill(fc)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec):
        return {
            "input_shape": input_shape,
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "dims": cfg.MODEL.PAPER_ABLATIONS.MLP_DIMS,
            "mask_size": cfg.MODEL.PAPER_ABLATIONS.MLP_MASK_SIZE,
        }

    def layers(self, x: Tensor) -> Tensor:
        """(R, C, h, w) -> (R, K, m, m) logits."""
        x = x.flatten(1)
        for fc in self.fcs:
            x = fc(x).relu()
        return self.predictor(x).view(len(x), -1, self.mask_size, self.mask_size)

    def class_logits(self, x: Tensor, classes: Tensor) -> Tensor:
        """(R, C, h, w) and (R,) classes -> (R, m, m) logits of the mask of each class."""
        return true_class_masks(self.layers(x), classes)
