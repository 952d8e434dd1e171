"""Training options that contradict each other are found before the first iteration."""

import pytest
from builders import tiny_cfg

from mrcnn_plugin.engine import check_training_options
from mrcnn_plugin.errors import RunError

COCO = ("DATASETS.TEST", ("coco_2017_val",))
ONE_CLASS = ("DATASETS.CLASS_NAMES", ("egg",))
LOSS = ("TEST.VAL_LOSS", True, "TEST.BEST_METRIC", "validation/loss_mask")


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ((*COCO, "TEST.BEST_METRIC", "segm/ap"), r"'segm/ap', which no evaluation .* segm/AP"),
        ((*COCO, "TEST.BEST_METRIC", "segm/AP-persn"), r"Did you mean segm/AP-person"),
        ((*COCO, "TEST.BEST_METRIC", "my_val/segm/AP"), r"which no evaluation of coco_2017_val"),
        ((*COCO, "MODEL.MASK_ON", False, "TEST.BEST_METRIC", "segm/AP"), r"for example bbox/AP,"),
        (
            ("DATASETS.TEST", ("coco_2017_val", "coco_2014_val"), "TEST.BEST_METRIC", "segm/AP"),
            r"Did you mean coco_2017_val/segm/AP or coco_2014_val/segm/AP\?",
        ),
        ((*COCO, *ONE_CLASS, "TEST.BEST_METRIC", "segm/AP-egg"), r"Did you mean segm/AP"),
        ((*COCO, *LOSS, "MODEL.MASK_ON", False), r"Did you mean validation/loss_"),
        ((*COCO, "TEST.AUG.ENABLED", True, "TEST.BEST_METRIC", "segm_TTA/AP"), r"mean segm/AP"),
        ((*COCO, "TEST.BEST_METRIC", "validation/total_loss"), r"needs TEST\.VAL_LOSS True"),
        ((*COCO, "TEST.EARLY_STOP_PATIENCE", 2), r"needs TEST\.BEST_METRIC"),
        (("DATASETS.TEST", (), "TEST.BEST_METRIC", "segm/AP"), r"DATASETS\.TEST is empty"),
        (("DATASETS.TEST", (), "TEST.VAL_LOSS", True), r"needs a validation dataset"),
        (("SOLVER.IMS_PER_BATCH", 2, "SOLVER.ACCUMULATE", 4), r"each process has 2 images"),
        (
            ("SOLVER.REFERENCE_WORLD_SIZE", 8, "SOLVER.ACCUMULATE", 4),  # 16 images, scaled to 2
            r"each process has 2 images",
        ),
        (("SOLVER.ACCUMULATE", 0), r"ACCUMULATE is 0; expected 1 or more"),
        (("SOLVER.EMA_DECAY", -0.1), r"EMA_DECAY is -0\.1; expected 0 \(off\)"),
    ],
)
def test_a_contradiction_is_one_sentence(opts, message):
    with pytest.raises(RunError, match=message):
        check_training_options(tiny_cfg(*opts))


@pytest.mark.parametrize(
    "opts",
    [
        (*COCO, "TEST.BEST_METRIC", "segm/AP"),
        (*COCO, "TEST.BEST_METRIC", "bbox/AP75"),
        (*COCO, "TEST.BEST_METRIC", "segm/AP-fire hydrant"),
        (*COCO, *LOSS),
        (
            *(*COCO, "TEST.VAL_LOSS", True, "MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
            *("TEST.BEST_METRIC", "validation/loss_cls_stage0"),
        ),
        (*("DATASETS.TEST", ("validation", "b")), *("TEST.BEST_METRIC", "validation/segm/AP")),
        ("DATASETS.TEST", ("not_loaded",), "TEST.BEST_METRIC", "segm/AP-any class"),
        (
            *COCO,
            "TEST.BEST_METRIC",
            "segm/AP-[a] star*",
            "DATASETS.CLASS_NAMES",
            ("[a] star*", "b"),
        ),
        (*("DATASETS.TEST", ("lvis_v1_val",)), *("TEST.BEST_METRIC", "segm/APr")),
    ],
)
def test_metrics_that_evaluations_compute_are_accepted(opts):
    check_training_options(tiny_cfg(*opts))
