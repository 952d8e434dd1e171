"""`--epochs` and the schedule that is inferred from the number of images."""

import logging

import pytest
from builders import ROOT, load_cfg
from coco_files import coco_content, write_dataset
from detectron2 import model_zoo

from mrcnn_plugin.cli.train import argument_parser
from mrcnn_plugin.engine.epochs import fit_schedule, schedule
from mrcnn_plugin.engine.setup import setup
from mrcnn_plugin.engine.trainer import MRCNNTrainer
from mrcnn_plugin.errors import ConfigError, RunError

FINETUNE = """
_BASE_: "mask_rcnn_shapes_C4.yaml"
SOLVER: {MAX_ITER: 0}
DATALOADER: {NUM_WORKERS: 0}
INPUT: {MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}
"""


@pytest.fixture
def start(tmp_path):
    """`start(flag, ..., opts=[...], config=...)`: the config of a run on eight images with objects.

    Two more images have no objects, and one has objects that are dropped.
    """
    content = coco_content(11)
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in (9, 10)]
    for annotation in content["annotations"][-2:]:
        annotation["category_id"] = 99
    path = write_dataset(tmp_path, content)
    base = (ROOT / "configs/mask_rcnn_shapes_C4.yaml").as_posix()
    (tmp_path / "auto.yaml").write_text(FINETUNE.replace("mask_rcnn_shapes_C4.yaml", base))

    def start(*flags, opts=(), config="auto.yaml"):
        config = tmp_path / config if (tmp_path / config).exists() else config
        arguments = ["--config-file", config, "--train", f"my={path}", "--drop-bad", *flags]
        arguments += ["OUTPUT_DIR", tmp_path / "output", "SOLVER.IMS_PER_BATCH", 2, *opts]
        return setup(argument_parser().parse_args([str(a) for a in arguments]))

    return start


def values(cfg):
    solver = cfg.SOLVER
    periods = solver.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD
    return (solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS, *periods)


def test_the_numbers():
    """20 epochs of 200 images in batches of 2: 100 iterations each."""
    assert schedule(2000, 20, warmup=1000) == {
        "SOLVER.MAX_ITER": 2000,
        "SOLVER.STEPS": (1556, 1852),  # 7/9 and 25/27
        "SOLVER.WARMUP_ITERS": 200,
        "SOLVER.CHECKPOINT_PERIOD": 400,
        "TEST.EVAL_PERIOD": 100,
    }
    long = schedule(300_000, 60, warmup=1000)  # 5000 iterations each
    assert long["SOLVER.WARMUP_ITERS"] == 1000 and long["TEST.EVAL_PERIOD"] == 15_000


@pytest.mark.parametrize("max_iter, epochs", [(1, 0.1), (1, 1), (2, 1), (3, 0.5), (10, 100)])
def test_a_tiny_schedule_is_valid(max_iter, epochs):
    found = schedule(max_iter, epochs, warmup=1000)
    steps = found["SOLVER.STEPS"]
    assert list(steps) == sorted(set(steps)) and all(0 < step < max_iter for step in steps)
    assert found["TEST.EVAL_PERIOD"] >= 1 and found["SOLVER.CHECKPOINT_PERIOD"] >= 1
    assert 0 <= found["SOLVER.WARMUP_ITERS"] < max_iter


def test_epochs_count_the_images_that_are_trained_on(start, caplog):
    with caplog.at_level(logging.INFO):
        cfg = start("--epochs", 30, config="mask_rcnn_shapes_C4.yaml")
    assert values(cfg) == (120, (93, 111), 12, 24, 8)  # 8 / 2 = 4 iterations per epoch
    text = "30 epochs (--epochs) of 8 images in batches of 2: 30 * 8 / 2 = 120 iterations"
    log = (ROOT / cfg.OUTPUT_DIR / "log.txt").read_text()
    assert text in log and "SOLVER.STEPS (93, 111)" in log
    assert "120 iterations of 2 images" in log  # the summary of the run comes later
    assert "MAX_ITER: 120" in (ROOT / cfg.OUTPUT_DIR / "config.yaml").read_text()


def test_part_of_an_epoch(start):
    assert start("--epochs", 0.25).SOLVER.MAX_ITER == 1
    cfg = start("--epochs", 1.1)
    assert cfg.SOLVER.MAX_ITER == 5
    assert "1.1 * 8 / 2 = 4.4, so 5 iterations" in (ROOT / cfg.OUTPUT_DIR / "log.txt").read_text()


def test_keys_on_the_command_line_win(start):
    opts = ["SOLVER.STEPS", "(7,)", "TEST.EVAL_PERIOD", 3]
    assert values(start("--epochs", 30, opts=opts)) == (120, (7,), 12, 24, 3)
    # The other keys follow from the number of iterations that is set.
    assert values(start("--epochs", 30, opts=["SOLVER.MAX_ITER", 54])) == (54, (42, 50), 5, 12, 4)
    assert values(start(opts=["SOLVER.MAX_ITER", 54])) == (54, (42, 50), 5, 12, 4)


def test_without_epochs_a_file_with_0_iterations_gets_the_default(start):
    assert start().SOLVER.MAX_ITER == 400  # 100 epochs; 2000 iterations would be 500 epochs


@pytest.mark.parametrize("images, iterations", [(20, 1000), (200, 2000), (10_000, 60_000)])
def test_the_default(images, iterations, monkeypatch):
    monkeypatch.setattr(
        "mrcnn_plugin.engine.epochs.get_detection_dataset_dicts", lambda *a, **k: range(images)
    )
    cfg = load_cfg("mask_rcnn_R101_C4_finetune.yaml")
    fit_schedule(cfg, epochs=None, given=())
    assert iterations == cfg.SOLVER.MAX_ITER


def test_other_configs_keep_their_schedule(start):
    cfg = start(config="mask_rcnn_shapes_C4.yaml")
    assert values(cfg) == values(load_cfg("mask_rcnn_shapes_C4.yaml"))


def test_resume_and_the_saved_config_give_the_same_schedule(start, tmp_path):
    first = values(start("--epochs", 30))
    assert values(start("--epochs", 30, "--resume")) == first
    saved = tmp_path / "output/config.yaml"
    arguments = ["--config-file", str(saved), "--resume"]
    assert values(setup(argument_parser().parse_args(arguments))) == first


def test_early_stopping_does_not_miss_the_period_that_epochs_set(start):
    opts = ["TEST.BEST_METRIC", "segm/AP", "TEST.EARLY_STOP_PATIENCE", 2]
    opts += ["TEST.EVAL_PERIOD", 0]
    with pytest.raises(RunError, match=r"needs TEST\.EVAL_PERIOD"):
        start("--epochs", 30, "--val-fraction", 0.5, opts=opts)
    config = "mask_rcnn_R50_C4_finetune.yaml"  # which has no EVAL_PERIOD
    opts = [*opts[:-2], "MODEL.WEIGHTS", ""]
    assert start("--epochs", 30, "--val-fraction", 0.5, opts=opts, config=config).TEST.EVAL_PERIOD


@pytest.mark.parametrize("epochs", ["0", "-1", "nan", "inf"])
def test_a_number_of_epochs_that_is_none(start, epochs):
    with pytest.raises(RunError, match=r"--epochs is .*; expected a positive number"):
        start("--epochs", epochs)


def test_0_iterations_elsewhere_are_an_error(start):
    with pytest.raises(RunError, match="MAX_ITER is 0; expected 1 or more"):
        start(opts=["SOLVER.MAX_ITER", 0])
    with pytest.raises(ConfigError, match="MAX_ITER is 0; expected 1 or more"):
        MRCNNTrainer(load_cfg("mask_rcnn_R101_C4_finetune.yaml"))


def test_a_stream_cannot_be_counted(monkeypatch):
    monkeypatch.setattr(
        "mrcnn_plugin.engine.epochs.get_detection_dataset_dicts", lambda *a, **k: iter(())
    )
    with pytest.raises(ConfigError, match=r"cannot be counted.*Set SOLVER\.MAX_ITER"):
        fit_schedule(load_cfg("mask_rcnn_R101_C4_finetune.yaml"), epochs=2, given=())


@pytest.mark.parametrize("depth", [50, 101])
def test_the_configs_start_from_the_model_zoo(depth):
    name = f"COCO-InstanceSegmentation/mask_rcnn_R_{depth}_C4_3x.yaml"
    cfg = load_cfg(f"mask_rcnn_R{depth}_C4_finetune.yaml")
    text = (ROOT / f"configs/mask_rcnn_R{depth}_C4_finetune.yaml").read_text()
    base = (ROOT / "configs/mask_rcnn_R101_C4_3x_detectron2.yaml").read_text()
    url = model_zoo.get_checkpoint_url(name).partition("detectron2/")[2]
    assert f'"detectron2://{url}"' in (text if depth == 50 else base)
    assert (depth, 2) == (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.BACKBONE.FREEZE_AT)
