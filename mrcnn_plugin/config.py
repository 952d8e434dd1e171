"""The config keys that detectron2 lacks. The five of the model cite their symbol or section."""

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

    # ---- Data (docs/custom_data.md) --------------------------------------------------------------

    # Datasets on files, "name=annotations.json:images" in COCO json. DATASETS.TRAIN and
    # DATASETS.TEST name those that are used. `--train` and `--val` write these keys.
    cfg.DATASETS.FILES = ()
    # Class names in order. If empty, they are inferred from the training data, together with
    # MODEL.ROI_HEADS.NUM_CLASSES and INPUT.MASK_FORMAT.
    cfg.DATASETS.CLASS_NAMES = ()
    # Fraction of the images of each training set on files to hold out for validation, and the seed.
    cfg.DATASETS.VAL_FRACTION = 0.0
    cfg.DATASETS.VAL_SEED = 0
    # Validate the data before the first iteration; drop unusable entries instead of stopping.
    cfg.DATASETS.CHECK = True
    cfg.DATASETS.DROP_BAD = False

    # ---- Training (docs/monitoring.md). With the defaults, training is detectron2's. -------------

    # Compute each batch of IMS_PER_BATCH images in this many pieces and average their gradients.
    cfg.SOLVER.ACCUMULATE = 1
    # Decay of an exponential moving average of the weights that is evaluated and saved. 0 disables
    # it; 0.999 is common.
    cfg.SOLVER.EMA_DECAY = 0.0
    # Compute the losses on DATASETS.TEST every TEST.EVAL_PERIOD iterations and log them as
    # "validation/total_loss" and so on.
    cfg.TEST.VAL_LOSS = False
    # Metric that selects model_best.pth: "segm/AP", "validation/total_loss" or any other metric of
    # metrics.json. "" disables it. Losses are minimised, everything else is maximised.
    cfg.TEST.BEST_METRIC = ""
    # Stop after this many consecutive evaluations without a better BEST_METRIC. 0 disables it.
    cfg.TEST.EARLY_STOP_PATIENCE = 0
    # Write OUTPUT_DIR/report.html after each evaluation.
    cfg.TEST.REPORT = True
    # Weights & Biases project that receives the scalars as well. "" disables it.
    cfg.WANDB_PROJECT = ""
