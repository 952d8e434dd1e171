"""Learning rate against batch size: 0.02 for 16 images is 0.0025 for 2."""

import pytest
from builders import CONFIGS
from detectron2.config import get_cfg

from mrcnn_plugin.cli.train import argument_parser
from mrcnn_plugin.engine import LearningRate, fit_learning_rate
from mrcnn_plugin.engine.setup import setup
from mrcnn_plugin.errors import RunError

PAPER = LearningRate(base_lr=0.02, ims_per_batch=16)


def solver(base_lr, ims_per_batch):
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH = base_lr, ims_per_batch
    return cfg


@pytest.mark.parametrize(
    ("base_lr", "ims_per_batch", "warned"),
    [
        (0.02, 16, False),
        (0.0025, 2, False),
        (0.005, 2, False),  # exactly 2x
        (0.0051, 2, True),
        (0.00124, 2, True),
        (0.02, 2, True),  # what many do who have one GPU
        (0.02, 40, True),
    ],
)
def test_warns_beyond_twice_the_ratio_of_the_config_file(caplog, base_lr, ims_per_batch, warned):
    fit_learning_rate(solver(base_lr, ims_per_batch), PAPER, scale=False)
    assert bool(caplog.records) == warned


def test_the_warning_says_what_belongs_there(caplog):
    fit_learning_rate(solver(0.02, 2), PAPER, scale=False)
    assert "8 times the linear scaling rule" in caplog.text and "is 0.0025 here" in caplog.text


def test_auto_scale():
    cfg = solver(0.02, 2)
    fit_learning_rate(cfg, PAPER, scale=True)
    assert pytest.approx(0.0025) == cfg.SOLVER.BASE_LR


def test_auto_scale_from_the_command_line(shapes_cfg):
    """The config file has 0.02 for 4 images."""
    arguments = [
        *("--config-file", str(CONFIGS / "mask_rcnn_shapes_C4.yaml"), "--auto-scale-lr"),
        *("DATASETS.TRAIN", "('drawn_train',)", "DATASETS.TEST", "('drawn_val',)"),
        *("OUTPUT_DIR", shapes_cfg().OUTPUT_DIR, "SOLVER.IMS_PER_BATCH", "2"),
    ]
    cfg = setup(argument_parser().parse_args(arguments))
    assert pytest.approx(0.01) == cfg.SOLVER.BASE_LR


def test_auto_scale_of_a_rate_set_by_hand_is_rejected():
    with pytest.raises(RunError, match=r"SOLVER\.BASE_LR 0\.01 are both set"):
        fit_learning_rate(solver(0.01, 2), PAPER, scale=True)
