"""train_net.py on the command line: trains, saves, resumes and evaluates."""

import functools
import json
import shlex
import sys

import pytest
import torch
from builders import CONFIGS, ROOT, forget, load_cfg, read_metrics, train
from detectron2.data import MetadataCatalog
from detectron2.utils.events import EventStorage
from documented_commands import run_program

from mrcnn_plugin.data import make_shapes, register_datasets
from mrcnn_plugin.engine import MRCNNTrainer, check_inputs, load_config
from mrcnn_plugin.errors import RunError

TRAINED = (
    *("model_final.pth", "last_checkpoint", "metrics.json", "config.yaml", "log.txt"),
    "report.html",
)


def run_train_net(datasets, *arguments, check=True):
    """Run the script in a new process; returns what it printed (stdout and stderr together)."""
    command = [sys.executable, ROOT / "train_net.py", *arguments]
    done = run_program(command, ROOT, DETECTRON2_DATASETS=str(datasets))
    if check:
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout
    return done


@pytest.fixture(scope="session")
def drawings(tmp_path_factory):
    """A DETECTRON2_DATASETS with small `shapes_train` and `shapes_val`."""
    root = tmp_path_factory.mktemp("datasets")
    make_shapes(root / "shapes/shapes_train/1500_seed1.json", 8, seed=1)
    make_shapes(root / "shapes/shapes_val/100_seed2.json", 4, seed=2)
    return root


def shapes_run(drawings, output, *arguments, opts=()):
    config = ("--config-file", CONFIGS / "mask_rcnn_shapes_C4.yaml")
    return run_train_net(
        drawings, *config, *arguments, "OUTPUT_DIR", output, "DATALOADER.NUM_WORKERS", 0, *opts
    )


def ap_iterations(output):
    lines = map(json.loads, (output / "metrics.json").read_text().splitlines())
    return [line["iteration"] for line in lines if "segm/AP" in line]


def check_what_is_logged(screen, file):
    """The start fits on a screen; the details are in the file, without colors of a terminal."""
    start = screen.split("Starting training from iteration 0")[0]
    assert len(start.splitlines()) <= 40
    assert "Training on shapes_train, evaluating on shapes_val; 3 iterations of 4 images" in start
    assert "config.yaml" in start and "log.txt" in start
    assert "RPN_LAMBDA: 10.0" in file and "(rpn_head): MRCNNRPNHead" in file
    assert "Environment info" in file and "Environment info" not in screen
    assert "\x1b" not in file + screen
    assert "detectron2.evaluation" in screen and "LabGym" not in screen
    assert "Warning" not in screen


def test_train_resume_evaluate(drawings, tmp_path):
    opts = ("TEST.EVAL_PERIOD", 2, "SOLVER.CHECKPOINT_PERIOD", 2)
    printed = shapes_run(drawings, tmp_path, opts=(*opts, "SOLVER.MAX_ITER", 3))
    assert "Starting training from iteration 0" in printed
    assert "Evaluation results for bbox" in printed and "Evaluation results for segm" in printed
    check_what_is_logged(printed, (tmp_path / "log.txt").read_text())
    assert all((tmp_path / name).exists() for name in TRAINED)
    assert (tmp_path / "model_0000001.pth").exists()
    assert ap_iterations(tmp_path) == [1, 3]  # at EVAL_PERIOD and at the end

    printed = shapes_run(drawings, tmp_path, "--resume", opts=("SOLVER.MAX_ITER", 5))
    assert "Starting training from iteration 3" in printed
    final = torch.load(tmp_path / "model_final.pth", map_location="cpu")
    assert final["iteration"] == 4
    before = (tmp_path / "metrics.json").read_text()
    printed = shapes_run(drawings, tmp_path, "--resume", opts=("SOLVER.MAX_ITER", 5))
    assert "is finished" in printed and "Raise SOLVER.MAX_ITER" in printed
    assert (tmp_path / "metrics.json").read_text() == before

    weights = ("MODEL.WEIGHTS", tmp_path / "model_final.pth")
    printed = shapes_run(drawings, tmp_path / "eval", "--eval-only", opts=weights)
    assert "Evaluation results for segm" in printed and "Starting training" not in printed
    assert "Accuracy on shapes_val" in (tmp_path / "eval/report.html").read_text()


def test_a_missing_dataset_is_one_sentence(tmp_path):
    done = run_train_net(
        tmp_path / "nothing",
        *("--config-file", CONFIGS / "mask_rcnn_R50_C4.yaml"),
        *("MODEL.WEIGHTS", "", "OUTPUT_DIR", tmp_path),
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert "dataset 'coco_2017_train'" in last and "DETECTRON2_DATASETS" in last
    assert "running on the CPU" in done.stdout  # the config says cuda


@pytest.mark.parametrize(
    "file, opts, message",
    [
        ("", (), "No --config-file is given"),
        ("nope.yaml", (), "no config file 'nope.yaml'"),
        ("folder/nope.yaml", (), "folder/nope.yaml' does not exist"),
        (
            CONFIGS / "mask_rcnn_R50_C4.yaml",
            ("SOLVER.MAXITER", "3"),
            r"did you mean SOLVER.MAX_ITER\b",
        ),
        (
            CONFIGS / "mask_rcnn_R50_C4.yaml",
            ("SOLVER.MAX_ITER", "x"),
            "'int'.* vs. .*'str'",
        ),
        (CONFIGS / "mask_rcnn_R50_C4.yaml", ("SOLVER.MAX_ITER",), "must be a list of pairs"),
    ],
)
def test_a_config_that_cannot_be_read_is_one_sentence(file, opts, message):
    with pytest.raises(RunError, match=message):
        load_config(str(file), opts)


def test_an_unknown_key_of_a_file_names_the_nearest(tmp_path):
    (tmp_path / "typo.yaml").write_text("MODEL:\n  MRCNN:\n    RPN_LAMDA: 10.0\n")
    (tmp_path / "broken.yaml").write_text("MODEL: [")
    with pytest.raises(RunError, match=r"typo.yaml: .*did you mean MODEL.MRCNN.RPN_LAMBDA"):
        load_config(str(tmp_path / "typo.yaml"))
    with pytest.raises(RunError, match=r"broken.yaml: "):
        load_config(str(tmp_path / "broken.yaml"))


def test_preflight_names_what_is_missing(drawings, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(drawings))
    cfg = load_cfg("mask_rcnn_shapes_C4.yaml", "DATASETS.TRAIN", ("no_such_set",))
    with pytest.raises(RunError, match=r"'no_such_set' is not registered"):
        check_inputs(cfg, training=True)
    try:
        register_datasets(cfg)
        check_inputs(cfg, training=False)  # DATASETS.TRAIN is not read then
        cfg.MODEL.WEIGHTS = str(tmp_path / "gone.pth")
        with pytest.raises(RunError, match=r"gone.pth' does not exist"):
            check_inputs(cfg, training=False)
    finally:
        forget("shapes_val")


def test_amp_on_the_cpu_computes_in_bfloat16(shapes_cfg):
    trainer = MRCNNTrainer(shapes_cfg("SOLVER.AMP.ENABLED", True))
    seen = set()
    trainer.model.backbone.res4.register_forward_hook(lambda m, i, out: seen.add(out.dtype))
    with EventStorage():
        trainer.model.train()
        trainer.iter = 0
        trainer.run_step()
    assert seen == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


def test_test_time_augmentation_when_asked(shapes_cfg):
    opts = ("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (64, 96))
    train(cfg := shapes_cfg(*opts, "TEST.DETECTIONS_PER_IMAGE", 5))
    (line,) = [m for m in read_metrics(cfg) if "segm_TTA/AP" in m or "bbox_TTA/AP" in m]
    assert "bbox/AP" in line and "segm_TTA/AP" in line


def test_unknown_evaluator_type(shapes_cfg):
    cfg = shapes_cfg()
    MetadataCatalog.get("drawn_val").__dict__["evaluator_type"] = "panoptic_of_the_future"
    with pytest.raises(ValueError, match=r"panoptic_of_the_future.*expected one of coco"):
        MRCNNTrainer.build_evaluator(cfg, "drawn_val")


@pytest.mark.slow
def test_two_processes_on_the_cpu(drawings, tmp_path):
    printed = shapes_run(
        drawings,
        tmp_path,
        *("--num-gpus", 2, "--dist-url", "auto"),
        opts=("SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 0),
    )
    assert "World size: 2" in printed and "Evaluation results for segm" in printed


def documented_command(heading):
    """The arguments of the first command in a section of docs/training.md."""
    section = (ROOT / "docs/training.md").read_text().split(f"## {heading}\n")[1]
    command = section.split("```\n")[1].replace("\\\n", " ")
    program, script, *arguments = shlex.split(command)
    assert (program, script) == ("python", "train_net.py")
    return arguments


@pytest.mark.slow
def test_two_processes_stop_early_together(drawings, tmp_path):
    """The weights do not change, so neither does the loss, and patience 1 ends a run of 50."""
    printed = shapes_run(
        drawings,
        tmp_path,
        *("--num-gpus", 2, "--dist-url", "auto"),
        opts=(
            *("SOLVER.MAX_ITER", 50, "TEST.EVAL_PERIOD", 2, "SOLVER.BASE_LR", 1e-30),
            *("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.PIXEL_STD", [1e3, 1e3, 1e3]),
            *("TEST.VAL_LOSS", True, "TEST.BEST_METRIC", "validation/total_loss"),
            *("TEST.EARLY_STOP_PATIENCE", 1, "SOLVER.ACCUMULATE", 2),
            *("SOLVER.EMA_DECAY", 0.9),
        ),
    )
    assert "Stopping at iteration 3: validation/total_loss has not improved" in printed
    assert "Validation loss over 4 images" in printed  # of both processes
    assert torch.load(tmp_path / "model_final.pth", map_location="cpu")["iteration"] == 3
    assert all((tmp_path / f).exists() for f in ("model_ema.pth", "model_best.pth", "report.html"))


@pytest.mark.slow
def test_r101_c4_on_real_images(real_images, tmp_path):
    """The full model with random weights on a CPU: trains, saves, resumes and evaluates."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/coco").symlink_to(real_images / "coco_tiny")
    run = functools.partial(run_train_net, tmp_path / "datasets")
    arguments = (*documented_command("The full model on a small machine"), "OUTPUT_DIR", tmp_path)
    printed = run(*arguments, "SOLVER.MAX_ITER", 2, "DATASETS.TEST", ())
    assert "Starting training from iteration 0" in printed
    printed = run("--resume", *arguments, "SOLVER.MAX_ITER", 3)
    assert "Starting training from iteration 2" in printed
    for table in ("bbox", "segm"):
        assert f"Evaluation results for {table}" in printed
        assert f"Per-category {table} AP" in printed
    assert all((tmp_path / name).exists() for name in TRAINED)
