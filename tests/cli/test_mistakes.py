"""Every mistake on the command line or in a config is one sentence before the first iteration."""

import importlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from builders import ROOT, run_python, tiny_cfg
from coco_files import coco_content, write_dataset

import mrcnn_command
from mrcnn_command import SUBCOMMANDS
from mrcnn_plugin.cli import weights
from mrcnn_plugin.cli.train import argument_parser
from mrcnn_plugin.engine.launch import launch
from mrcnn_plugin.engine.options import check_solver
from mrcnn_plugin.engine.setup import setup
from mrcnn_plugin.errors import RunError


@pytest.fixture
def start(shapes_cfg):
    """`start(flag, ..., opts=[...])` prepares a training as `mrcnn train` does."""
    output = shapes_cfg().OUTPUT_DIR

    def start(*flags, opts=(), config="mask_rcnn_shapes_C4.yaml"):
        base = ["DATASETS.TRAIN", "('drawn_train',)", "DATASETS.TEST", "('drawn_val',)"]
        arguments = ["--config-file", config, *flags, *base, "OUTPUT_DIR", output, *opts]
        return setup(argument_parser().parse_args([str(a) for a in arguments]))

    return start


def sentence(start, *flags, **kwargs):
    with pytest.raises(RunError) as error:
        start(*flags, **kwargs)
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "opts, message",
    [
        (["SOLVER.MAX_ITER", "3", "--resume"], r"--resume comes after .*Options come first"),
        (["SOLVER.MAX_ITER=3"], r"'SOLVER.MAX_ITER=3' .*: SOLVER.MAX_ITER 3"),
        (["SOLVER.MAX_ITER"], "must be a list of pairs"),
        (["SOLVER.MAXITER", "3"], "did you mean SOLVER.MAX_ITER"),
        (["MODEL.MRCNN.RPN_LAMBDA", "x"], "'float'.*'str'"),
        (["MODEL.MRCNN.ROI_ALIGN_MODE", "median"], "'median'; expected 'avg' or 'max'"),
        (["MODEL.MRCNN.RES5_STRIDE", "3"], "is 3; expected 1 or 2"),
        (["TEST.BEST_METRIC", "segm/ap"], "Did you mean segm/AP"),
        (["TEST.EARLY_STOP_PATIENCE", "1"], "needs TEST.BEST_METRIC"),
        (
            ["TEST.EARLY_STOP_PATIENCE", "1", "TEST.BEST_METRIC", "segm/AP", "TEST.EVAL_PERIOD", 0],
            "needs TEST.EVAL_PERIOD",
        ),
        (["SOLVER.ACCUMULATE", "8"], "ACCUMULATE is 8, but each process has 4 images"),
        (["OUTPUT_DIR", ROOT / "README.md"], r"README.md' cannot be written to \(it is a file\)"),
        (["OUTPUT_DIR", "/proc/output"], "'/proc/output' cannot be written to"),
        (["DATASETS.TRAIN", "('drawn_trian',)"], "not registered. Did you mean drawn_train"),
        (["MODEL.WEIGHTS", "gone.pth"], "'gone.pth' does not exist"),
        (["SOLVER.IMS_PER_BATCH", "0"], "IMS_PER_BATCH is 0; expected 1 or more"),
        (["SOLVER.MAX_ITER", "0"], "MAX_ITER is 0; expected 1 or more"),
        (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE is 'gpu'; expected 'cuda' or 'cpu'"),
        (["MODEL.ROI_HEADS.NAME", "Res5ROIHead"], "is not registered. Did you mean .*Res5ROIHeads"),
        (["MODEL.BACKBONE.NAME", "resnet_c4"], "BACKBONE.NAME is 'resnet_c4', which is not"),
    ],
)
def test_options(start, opts, message):
    assert re.search(message, sentence(start, opts=opts))


def test_a_batch_that_the_processes_cannot_share(monkeypatch):
    monkeypatch.setattr("mrcnn_plugin.engine.options.comm.get_world_size", lambda: 2)
    check_solver(tiny_cfg("SOLVER.IMS_PER_BATCH", 4))
    with pytest.raises(RunError, match="is 3, which 2 processes cannot share equally"):
        check_solver(tiny_cfg("SOLVER.IMS_PER_BATCH", 3))


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--num-gpus", "0"), "--num-gpus is 0"),
        (("--machine-rank", "1"), "--machine-rank is 1; expected 0 to 0"),
        (("--num-machines", "2", "--dist-url", "auto"), "auto works on a single machine only"),
        (("--num-gpus", "2", "--dist-url", "garbage"), "--dist-url is 'garbage'; expected"),
    ],
)
def test_processes(flags, message):
    with pytest.raises(RunError, match=message):
        launch(None, argument_parser().parse_args(flags))


def test_a_run_that_cannot_start_keeps_the_config_of_an_earlier_one(start):
    cfg = start()
    saved = Path(cfg.OUTPUT_DIR, "config.yaml").read_text()
    sentence(start, opts=["MODEL.WEIGHTS", "gone.pth", "SOLVER.BASE_LR", "7"])
    assert Path(cfg.OUTPUT_DIR, "config.yaml").read_text() == saved


@pytest.mark.parametrize("what", ["images", "annotations"])
def test_nothing_to_train_on(start, tmp_path, what):
    content = coco_content(3)
    content["annotations"] = []
    if what == "images":
        content["images"] = []
    path = write_dataset(tmp_path, content)
    opts = ["DATASETS.TRAIN", "('my',)", "DATASETS.TEST", "()"]
    found = sentence(start, "--train", f"my={path}", opts=opts)
    assert "There is nothing to train on in my" in found


def test_an_int_is_a_float(start, tmp_path):
    assert start(opts=["MODEL.MRCNN.RPN_LAMBDA", "1"]).MODEL.MRCNN.RPN_LAMBDA == 1.0
    keys = "MRCNN: {RPN_LAMBDA: 2}, ROI_HEADS: {NUM_CLASSES: 3}, DEVICE: cpu, WEIGHTS: ''"
    (tmp_path / "a.yaml").write_text(f"MODEL: {{{keys}}}")
    value = start(config=tmp_path / "a.yaml").MODEL.MRCNN.RPN_LAMBDA
    assert value == 2.0 and isinstance(value, float)


def test_config_files(start, tmp_path):
    assert "No --config-file is given" in sentence(start, config="")
    assert "mask_rcnn_R101_C4.yaml" in sentence(start, config="mask_rcnn_R101.yaml")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    (tmp_path / "loop.yaml").write_text("_BASE_: loop.yaml\n")
    for name in ("list.yaml", "loop.yaml"):
        assert f"{name}: " in sentence(start, config=tmp_path / name)


def test_a_config_file_cannot_run_code(start, tmp_path):
    touched = tmp_path / "touched"
    (tmp_path / "tag.yaml").write_text(
        f"OUTPUT_DIR: !!python/object/apply:os.system ['touch {touched}']\n"
    )
    with pytest.raises(RunError, match=r"tag.yaml"):
        start(config=tmp_path / "tag.yaml")
    assert not touched.exists()


@pytest.mark.parametrize("name", ["text.pth", "cut_off.pth", "text.pkl", "list.pth", "empty.pth"])
def test_a_file_that_holds_no_weights(start, tmp_path, name):
    whole = tmp_path / "whole.pth"
    torch.save({"weight": torch.zeros(1000)}, whole)
    (tmp_path / "text.pth").write_text("these are no weights")
    (tmp_path / "text.pkl").write_text("these are no weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "cut_off.pth").write_bytes(whole.read_bytes()[:1000])
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    found = sentence(start, opts=["MODEL.WEIGHTS", tmp_path / name])
    assert f"{name}' is not a weight file" in found and "Set MODEL.WEIGHTS to" in found


def test_a_missing_optional_package(start, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else find(name, *a)
    )
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert "pip install wandb" in sentence(start, opts=["WANDB_PROJECT", "shapes"])


def test_random_weights(start, caplog, monkeypatch):
    assert "would evaluate random weights" in sentence(start, "--eval-only")
    printed = capture_warnings(monkeypatch)
    start()
    assert not any("FrozenBN" in text for text in printed)
    start(opts=["MODEL.RESNETS.NORM", "FrozenBN"])
    assert any("MODEL.RESNETS.NORM to 'BN'" in text for text in printed)


def test_resume_without_a_checkpoint_is_a_warning_with_the_path(start, monkeypatch):
    printed = capture_warnings(monkeypatch)
    output = start("--resume").OUTPUT_DIR
    assert any("--resume" in text and output in text for text in printed)


def capture_warnings(monkeypatch):
    """The texts of warnings of the checks, as they come."""
    texts = []
    monkeypatch.setattr("mrcnn_plugin.engine.preflight.logger.warning", texts.append)
    return texts


def test_one_sentence_from_two_processes(tmp_path):
    """Rank 0 raises while rank 1 may wait for it. Neither hangs, and nothing is printed twice."""
    done = run_python(
        *("-m", "mrcnn_plugin", "train", "--config-file", "mask_rcnn_shapes_C4.yaml"),
        *("--num-gpus", 2, "--dist-url", "auto", "MODEL.WEIGHTS", ROOT / "README.md"),
        *("OUTPUT_DIR", tmp_path, "DATASETS.TRAIN", "()", "DATASETS.TEST", "()"),
        CUDA_VISIBLE_DEVICES="",
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in printed
    assert printed.count("is not a weight file") == 1
    assert done.stderr.startswith("mrcnn train: MODEL.WEIGHTS")


def test_help():
    """`mrcnn` and `mrcnn --help` are the same, without importing torch."""
    for arguments in ((), ("--help",)):
        done = run_python("-X", "importtime", "-m", "mrcnn_command", *arguments)
        assert done.returncode == 0 and not re.search(r"\| +torch\n", done.stderr)
        assert all(f"  {name} " in done.stdout for name in SUBCOMMANDS)


def test_ctrl_c_while_the_package_is_imported(monkeypatch):
    def stopped(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(mrcnn_command.importlib, "import_module", stopped)
    monkeypatch.setattr(sys, "argv", ["mrcnn"])
    with pytest.raises(SystemExit, match="130"):
        mrcnn_command.main(["predict"])


def test_openmp_is_set_before_torch_is_imported():
    code = (
        "import mrcnn_command, os, sys;"
        "print('GOMP_SPINCOUNT' in os.environ, 'torch' in sys.modules)"
    )
    assert run_python("-c", code).stdout == "True False\n"


@pytest.mark.parametrize("name", ["text.pth", "text.pkl", "gone.pth"])
def test_weights_of_a_file_that_holds_none(tmp_path, name):
    for file in ("text.pth", "text.pkl"):
        (tmp_path / file).write_text("these are no weights")
    arguments = ["--config-file", "mask_rcnn_R50_C4.yaml", tmp_path / name, tmp_path / "out.pth"]
    with pytest.raises(RunError, match=rf"{name}'? (is not a weight file|cannot be read)") as error:
        weights.main([str(a) for a in arguments])
    assert "weights_only" not in str(error.value) and not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("name", sorted(SUBCOMMANDS))
def test_every_subcommand_has_an_example(name, capsys):
    module = importlib.import_module(f"mrcnn_plugin.cli.{name}")
    with pytest.raises(SystemExit) as stop:
        module.main(["--help"])
    assert stop.value.code == 0 and f"mrcnn {name} " in capsys.readouterr().out
