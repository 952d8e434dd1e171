"""The config keys that detectron2 lacks, under `MODEL.MRCNN`, each with its symbol or section."""

from detectron2.config import CfgNode as CN


def add_mrcnn_config(cfg: CN) -> None:
    """Add the plugin's keys to a detectron2 config, in place.

    Call it between `get_cfg()` and `cfg.merge_from_file(...)`. Everything that detectron2 already
    has a key for is set by that key.
    """
    cfg.MODEL.MRCNN = CN()

    # lambda of the RPN loss: weight of the regression term (Faster R-CNN, eq. 1; 10 by default).
    cfg.MODEL.MRCNN.RPN_LAMBDA = 10.0
    # N_reg of the RPN loss. 0 means the number of anchor locations, H * W of the feature map,
    # summed over levels (2394, "about 2400", for a 600 x 1000 image at stride 16).
    cfg.MODEL.MRCNN.RPN_N_REG = 0.0
    # How RoIAlign aggregates the samples of a bin: "avg" or "max" (Mask R-CNN, Sec. 3, Table 2c).
    cfg.MODEL.MRCNN.ROI_ALIGN_MODE = "avg"
    # Stride of res5's first block on the RoI grid of ROI_BOX_HEAD.POOLER_RESOLUTION bins.
    # 1 with 7x7 is Mask R-CNN, Fig. 4; 2 with 14x14 is detectron2's head.
    cfg.MODEL.MRCNN.RES5_STRIDE = 1
    # "sigmoid": K independent binary masks, class and mask decoupled (Mask R-CNN, Sec. 3).
    # "softmax": classes compete for every pixel (the alternative of Table 2b).
    cfg.MODEL.MRCNN.MASK_LOSS = "sigmoid"

    # Data sets on files (docs/custom_data.md): "name=annotations.json:images", COCO json. DATASETS
    # .TRAIN and .TEST name those that are used. `train_net.py --train --val` writes these keys.
    cfg.MODEL.MRCNN.DATASETS = ()
    # Classes of the run, in order; empty: they follow from the data, as do ROI_HEADS.NUM_CLASSES
    # and INPUT.MASK_FORMAT then.
    cfg.MODEL.MRCNN.CLASS_NAMES = ()
    # Part of the images of each declared training set to hold out for validation, and the seed.
    cfg.MODEL.MRCNN.VAL_FRACTION = 0.0
    cfg.MODEL.MRCNN.VAL_SEED = 0
    # Check the data before the first iteration; leave out what is unusable instead of stopping.
    cfg.MODEL.MRCNN.CHECK_DATA = True
    cfg.MODEL.MRCNN.DROP_BAD_DATA = False
    # Training that tells how it goes (docs/monitoring.md). Off: training is detectron2's.
    # Losses on DATASETS.TEST every TEST.EVAL_PERIOD iterations, as "validation/total_loss", ...
    cfg.MODEL.MRCNN.VAL_LOSS = False
    # Metric by which model_best.pth is chosen: "segm/AP", "validation/total_loss", any other of
    # metrics.json. "" is off. Lower is better where the name has "loss" in it.
    cfg.MODEL.MRCNN.BEST_METRIC = ""
    # Training ends after this many evaluations in a row without a better BEST_METRIC; 0 is off.
    cfg.MODEL.MRCNN.EARLY_STOP_PATIENCE = 0
    # Each batch of IMS_PER_BATCH images is computed in this many pieces, their gradients averaged.
    cfg.MODEL.MRCNN.ACCUMULATE = 1
    # Exponential moving average of the weights, evaluated and saved; 0 is off, 0.999 is common.
    cfg.MODEL.MRCNN.EMA_DECAY = 0.0
    # OUTPUT_DIR/report.html after each evaluation.
    cfg.MODEL.MRCNN.REPORT = True
    # Project at Weights & Biases that scalars also go to; "" is off. WANDB_MODE=offline works.
    cfg.MODEL.MRCNN.WANDB_PROJECT = ""
