"""Repeats Base-MRCNN-C4.yaml and mask_rcnn_R101_C4.yaml as a LazyConfig; a test compares them."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.model_zoo import get_config
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN

from mrcnn_plugin import (
    MRCNNRPN,
    MRCNNMaskFCNHead,
    MRCNNRes5ROIHeads,
    MRCNNRPNHead,
    RoIAlignPooler,
    res5_stage,
    resnet_c4,
)
from mrcnn_plugin.modeling.roi_heads import Float32OutputLayers

DEPTH, NUM_CLASSES = 101, 80

model = L(GeneralizedRCNN)(
    backbone=L(resnet_c4)(depth=DEPTH, freeze_at=2),
    proposal_generator=L(MRCNNRPN)(
        in_features=["res4"],
        head=L(MRCNNRPNHead)(in_channels=1024, num_anchors=15),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[32, 64, 128, 256, 512]], aspect_ratios=[0.5, 1.0, 2.0], strides=[16], offset=0.0
        ),
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=(12000, 6000),
        post_nms_topk=(2000, 300),
        nms_thresh=0.7,
        smooth_l1_beta=1.0,
        reg_lambda=10.0,
    ),
    roi_heads=L(MRCNNRes5ROIHeads)(
        num_classes=NUM_CLASSES,
        batch_size_per_image=64,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(
            thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
        ),
        in_features=["res4"],
        pooler=L(RoIAlignPooler)(
            output_size=7, spatial_scales=[1 / 16], sampling_ratio=2, aligned=True, mode="avg"
        ),
        res5=L(res5_stage)(depth=DEPTH, stride=1),
        box_predictor=L(Float32OutputLayers)(
            input_shape=L(ShapeSpec)(channels=2048, height=1, width=1),
            box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
            num_classes=NUM_CLASSES,
            test_score_thresh=0.05,
        ),
        mask_head=L(MRCNNMaskFCNHead)(
            input_shape=L(ShapeSpec)(channels=2048, height=7, width=7),
            num_classes=NUM_CLASSES,
            conv_dims=[256],
        ),
    ),
    pixel_mean=[103.530, 116.280, 123.675],
    pixel_std=[1.0, 1.0, 1.0],
    input_format="BGR",
)

# `tools/lazyconfig_train_net.py` of detectron2 also needs these. They are detectron2's for C4, with
# the paper's image size and schedule: 160k iterations of 16 images, a tenth of the rate from 120k.
_recipe = get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.py")
dataloader, optimizer, lr_multiplier, train = (
    _recipe[name] for name in ("dataloader", "optimizer", "lr_multiplier", "train")
)
dataloader.train.mapper.augmentations[0].short_edge_length = (800,)
train.init_checkpoint = f"detectron2://ImageNetPretrained/MSRA/R-{DEPTH}.pkl"
train.max_iter = 160000
lr_multiplier.scheduler.values = [1.0, 0.1]
lr_multiplier.scheduler.milestones = [120000]
lr_multiplier.scheduler.num_updates = train.max_iter
lr_multiplier.warmup_length = 1000 / train.max_iter
