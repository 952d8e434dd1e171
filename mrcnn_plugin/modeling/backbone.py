"""ResNet-C4 backbone, and res5, the stage that runs on RoIs (ResNet, Table 1; Mask R-CNN, Sec. 3).

"C4" is the output of the last conv layer of the 4th stage, res4, which has stride 16. The blocks
and the parameter names are detectron2's, so ImageNet and Model Zoo files load by name. FrozenBN is
folded into its convolution (see `frozen_bn.py`).
"""

from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet
from torch import nn

from ..errors import ConfigError
from .frozen_bn import fold_frozen_bn

# Blocks in res2, res3, res4, res5 (ResNet, Table 1).
_BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def resnet_stage(
    stage: int,
    *,
    depth: int,
    first_stride: int,
    stem_out_channels: int = 64,
    res2_out_channels: int = 256,
    num_groups: int = 1,
    width_per_group: int = 64,
    norm: str = "FrozenBN",
    stride_in_1x1: bool = True,
) -> list[CNNBlockBase]:
    """The blocks of stage `stage` (2 to 5) of a ResNet.

    Args:
        stage: 2 for res2 to 5 for res5. Channels double with every stage.
        depth: 18 or 34 (two 3x3 convs per block), 50, 101 or 152 (bottleneck blocks).
        first_stride: stride of the first block; the others have stride 1.
        stem_out_channels: channels of the stem, which feeds res2.
        res2_out_channels: channels of res2's output; 256 for the bottleneck nets.
        num_groups, width_per_group: the 3x3 convs' groups and their width in res2 (1 x 64).
        norm: a normalisation that `detectron2.layers.get_norm` knows.
        stride_in_1x1: True for the original MSRA nets (stride in the first 1x1 conv), False for
            torchvision's (stride in the 3x3 conv).

    Raises:
        ConfigError: the depth is not one of ResNet's.
    """
    if depth not in _BLOCKS_PER_STAGE:
        raise ConfigError(f"MODEL.RESNETS.DEPTH is {depth}; expected one of {[*_BLOCKS_PER_STAGE]}")
    num_blocks = _BLOCKS_PER_STAGE[depth][stage - 2]
    widening = 2 ** (stage - 2)
    out_channels = res2_out_channels * widening
    block_args = {}
    if depth >= 50:
        block_args = {
            "bottleneck_channels": num_groups * width_per_group * widening,
            "num_groups": num_groups,
            "stride_in_1x1": stride_in_1x1,
        }
    return ResNet.make_stage(
        BottleneckBlock if depth >= 50 else BasicBlock,
        num_blocks,
        stride_per_block=[first_stride] + [1] * (num_blocks - 1),
        in_channels=stem_out_channels if stage == 2 else out_channels // 2,
        out_channels=out_channels,
        norm=norm,
        **block_args,
    )


def resnet_c4(*, in_channels: int = 3, freeze_at: int = 2, **stage_args) -> ResNet:
    """Stem, res2, res3 and res4: (N, 3, H, W) images -> {"res4": (N, 1024, H/16, W/16)}.

    Args:
        in_channels: channels of the image.
        freeze_at: the number of stages to freeze, from the bottom: 0 freezes nothing, 1 the stem,
            2 the stem and res2.
        stage_args: see `resnet_stage`, without `stage` and `first_stride`.
    """
    stem = BasicStem(
        in_channels, stage_args.get("stem_out_channels", 64), stage_args.get("norm", "FrozenBN")
    )
    stages = [resnet_stage(s, first_stride=1 if s == 2 else 2, **stage_args) for s in (2, 3, 4)]
    net = ResNet(stem, stages, out_features=["res4"], freeze_at=freeze_at)
    fold_frozen_bn(net)
    return net


def res5_stage(*, stride: int, **stage_args) -> nn.Sequential:
    """The 9-layer res5: (R, 1024, 7, 7) RoI features -> (R, 2048, 7, 7) with stride 1.

    Args:
        stride: stride of the first block: 1 as in Mask R-CNN, Fig. 4, or 2 as in ResNet.
        stage_args: see `resnet_stage`, without `stage` and `first_stride`.
    """
    stage = nn.Sequential(*resnet_stage(5, first_stride=stride, **stage_args))
    fold_frozen_bn(stage)
    return stage


def stage_args_from_config(cfg) -> dict:
    """The arguments of `resnet_stage` that `cfg.MODEL.RESNETS` sets; all stages share them.

    Raises:
        ConfigError: a key of detectron2's ResNet that does not apply to the C4 net is set.
    """
    resnets = cfg.MODEL.RESNETS
    if any(resnets.DEFORM_ON_PER_STAGE) or resnets.RES5_DILATION != 1:
        raise ConfigError(
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE or RES5_DILATION is set, but ResNet-C4 has neither. "
            "Set MODEL.BACKBONE.NAME to detectron2's build_resnet_backbone to use them."
        )
    return {
        "depth": resnets.DEPTH,
        "stem_out_channels": resnets.STEM_OUT_CHANNELS,
        "res2_out_channels": resnets.RES2_OUT_CHANNELS,
        "num_groups": resnets.NUM_GROUPS,
        "width_per_group": resnets.WIDTH_PER_GROUP,
        "norm": resnets.NORM,
        "stride_in_1x1": resnets.STRIDE_IN_1X1,
    }


@BACKBONE_REGISTRY.register()
def build_mrcnn_resnet_c4_backbone(cfg, input_shape: ShapeSpec) -> ResNet:
    """ResNet-C4 from config: `MODEL.RESNETS` (DEPTH 50, 101, ...) and `MODEL.BACKBONE.FREEZE_AT`.

    Raises:
        ConfigError: `MODEL.RESNETS.OUT_FEATURES` is not `["res4"]`.
    """
    if cfg.MODEL.RESNETS.OUT_FEATURES != ["res4"]:
        raise ConfigError(
            f"MODEL.RESNETS.OUT_FEATURES is {cfg.MODEL.RESNETS.OUT_FEATURES}; expected ['res4'], "
            "the only output of a C4 backbone. For a feature pyramid set MODEL.BACKBONE.NAME to "
            "detectron2's build_resnet_fpn_backbone."
        )
    return resnet_c4(
        in_channels=input_shape.channels,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        **stage_args_from_config(cfg),
    )
