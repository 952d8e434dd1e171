"""The config keys that detectron2 lacks. The five of the model cite their symbol or section."""

import math
from collections.abc import Iterator

from detectron2.config import CfgNode as CN

from .errors import ConfigError

# Keys that were under MODEL.MRCNN -> where they are now.
RENAMED_KEYS = {
    "DATASETS": "DATASETS.FILES",
    "CLASS_NAMES": "DATASETS.CLASS_NAMES",
    "VAL_FRACTION": "DATASETS.VAL_FRACTION",
    "VAL_SEED": "DATASETS.VAL_SEED",
    "CHECK_DATA": "DATASETS.CHECK",
    "DROP_BAD_DATA": "DATASETS.DROP_BAD",
    "ACCUMULATE": "SOLVER.ACCUMULATE",
    "EMA_DECAY": "SOLVER.EMA_DECAY",
    "VAL_LOSS": "TEST.VAL_LOSS",
    "BEST_METRIC": "TEST.BEST_METRIC",
    "EARLY_STOP_PATIENCE": "TEST.EARLY_STOP_PATIENCE",
    "REPORT": "TEST.REPORT",
    "WANDB_PROJECT": "WANDB_PROJECT",
}


def add_mrcnn_config(cfg: CN) -> None:
    """Add the plugin's keys to a detectron2 config, in place.

    Call it between `get_cfg()` and `cfg.merge_from_file(...)`. Everything that detectron2 already
    has a key for is set by that key. Merging a key that has been renamed raises a KeyError that
    names the new one.
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
    # Train and evaluate on annotations with iscrowd 1 as on any other. Some labelling tools export
    # masks of single objects like this.
    cfg.DATASETS.CROWDS_AS_OBJECTS = False

    # Longest time in seconds to wait for the worker processes of the training loader. 0 waits
    # without end.
    cfg.DATALOADER.TIMEOUT = 600.0
    # Train on other images in place of those that cannot be read, with a warning for each. By
    # default such an image ends the run.
    cfg.DATALOADER.SKIP_BAD_IMAGES = False

    # ---- Augmentation (docs/finetune.md) ---------------------------------------------------------

    cfg.INPUT.AUG = CN()
    # Replaces detectron2's augmentation in training. False leaves it as it is.
    cfg.INPUT.AUG.ENABLED = False
    # Probabilities, in place of INPUT.RANDOM_FLIP.
    cfg.INPUT.AUG.HORIZONTAL_FLIP = 0.5
    cfg.INPUT.AUG.VERTICAL_FLIP = 0.0
    # Smallest and largest factor of the size that MIN_SIZE_TRAIN gives. MAX_SIZE_TRAIN still holds.
    cfg.INPUT.AUG.SCALE = (0.8, 1.25)
    # Smallest and largest part of the height, and of the width, that is cut out, in place of
    # INPUT.CROP. Objects keep their scale.
    cfg.INPUT.AUG.CROP = (1.0, 1.0)
    # Largest rotation in degrees, in both directions. The corners get MODEL.PIXEL_MEAN.
    cfg.INPUT.AUG.ROTATION = 0.0
    # Largest change of brightness, contrast, saturation and hue, as torchvision's ColorJitter.
    cfg.INPUT.AUG.COLOR = (0.2, 0.2, 0.2, 0.0)

    # ---- Training (docs/monitoring.md). With the defaults, training is detectron2's. -------------

    # Compute each batch of IMS_PER_BATCH images in this many pieces and average their gradients.
    cfg.SOLVER.ACCUMULATE = 1
    # Decay of an exponential moving average of the weights that is evaluated and saved. 0 disables
    # it; 0.999 is common.
    cfg.SOLVER.EMA_DECAY = 0.0
    # Compute the losses on DATASETS.TEST every TEST.EVAL_PERIOD iterations and log them as
    # "validation/total_loss" and so on.
    cfg.TEST.VAL_LOSS = False
    # Metric that selects model_best.pth: "segm/AP", "validation/total_loss" or any other one that
    # an evaluation computes. "" disables it. Losses are minimised, everything else is maximised.
    cfg.TEST.BEST_METRIC = ""
    # Stop after this many consecutive evaluations without a better BEST_METRIC. 0 disables it.
    cfg.TEST.EARLY_STOP_PATIENCE = 0
    # What computes COCO's AP: "pycocotools", the reference, or "hotcoco", with the same numbers and
    # ten times faster or more (docs/benchmarks.md).
    cfg.TEST.COCO_EVAL = "pycocotools"
    # Write OUTPUT_DIR/report.html after each evaluation.
    cfg.TEST.REPORT = True
    # Weights & Biases project that receives the scalars as well. "" disables it.
    cfg.WANDB_PROJECT = ""

    for old, new in RENAMED_KEYS.items():
        # A config that is based on mrcnn_plugin.env has them already.
        if not cfg.key_is_renamed(f"MODEL.MRCNN.{old}"):
            cfg.register_renamed_key(f"MODEL.MRCNN.{old}", new)


def config_leaves(node: CN, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) of every leaf of a config."""
    for key, value in node.items():
        if isinstance(value, CN):
            yield from config_leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def check_mrcnn_config(cfg: CN) -> None:
    """Check the values of the five keys of `MODEL.MRCNN`.

    Raises:
        ConfigError: a value is not one that a model can be built from.
    """
    keys = cfg.MODEL.MRCNN
    if not 0 <= keys.RPN_LAMBDA < math.inf:
        raise ConfigError(f"MODEL.MRCNN.RPN_LAMBDA is {keys.RPN_LAMBDA}; expected 0 or more")
    if not 0 <= keys.RPN_N_REG < math.inf:
        raise ConfigError(
            f"MODEL.MRCNN.RPN_N_REG is {keys.RPN_N_REG}; expected a positive number, or 0 for the "
            "number of anchor locations"
        )
    _check_choice("ROI_ALIGN_MODE", keys.ROI_ALIGN_MODE, ("avg", "max"))
    _check_choice("RES5_STRIDE", keys.RES5_STRIDE, (1, 2))
    _check_choice("MASK_LOSS", keys.MASK_LOSS, ("sigmoid", "softmax"))


def _check_choice(name: str, value: object, choices: tuple) -> None:
    if value not in choices:
        expected = " or ".join(repr(choice) for choice in choices)
        raise ConfigError(f"MODEL.MRCNN.{name} is {value!r}; expected {expected}")
