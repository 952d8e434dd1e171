"""Repeats mask_rcnn_R50_C4.yaml as a LazyConfig."""

from .mask_rcnn_R101_C4 import dataloader, lr_multiplier, model, optimizer, train  # noqa: F401

model.backbone.depth = 50
model.roi_heads.res5.depth = 50
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
