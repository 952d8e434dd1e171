"""Training options that contradict each other are found before the first iteration."""

import pytest
from builders import tiny_cfg

from mrcnn_plugin.engine import check_training_options
from mrcnn_plugin.errors import RunError

COCO = ("DATASETS.TEST", ("coco_2017_val",))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ((*COCO, "TEST.BEST_METRIC", "segm/ap"), r"'segm/ap', which no evaluation .* segm/AP"),
        ((*COCO, "TEST.BEST_METRIC", "segm/AP-persn"), r"Did you mean segm/AP-person"),
        ((*COCO, "TEST.BEST_METRIC", "my_val/segm/AP"), r"which no evaluation of coco_2017_val"),
        ((*COCO, "MODEL.MASK_ON", False, "TEST.BEST_METRIC", "segm/AP"), r"for example bbox/AP,"),
        (
            ("DATASETS.TEST", ("coco_2017_val", "coco_2014_val"), "TEST.BEST_METRIC", "segm/AP"),
            r"coco_2017_val/segm/AP",
        ),
        ((*COCO, "TEST.BEST_METRIC", "validation/total_loss"), r"needs TEST\.VAL_LOSS True"),
        ((*COCO, "TEST.EARLY_STOP_PATIENCE", 2), r"needs TEST\.BEST_METRIC"),
        (("DATASETS.TEST", (), "TEST.BEST_METRIC", "segm/AP"), r"DATASETS\.TEST is empty"),
        (("DATASETS.TEST", (), "TEST.VAL_LOSS", True), r"needs a validation dataset"),
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
        (*COCO, "TEST.BEST_METRIC", "validation/loss_mask", "TEST.VAL_LOSS", True),
        (*COCO, "TEST.BEST_METRIC", "segm/AP-[a] star*", "DATASETS.CLASS_NAMES", ("[a] star*",)),
        (*("DATASETS.TEST", ("lvis_v1_val",)), *("TEST.BEST_METRIC", "segm/APr")),
    ],
)
def test_metrics_that_evaluations_give_are_accepted(opts):
    check_training_options(tiny_cfg(*opts))
