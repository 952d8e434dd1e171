"""A run with a loss that is not finite: its message, the saved step, and its replay."""

import math
from pathlib import Path

import pytest
import torch
from builders import train
from detectron2.structures import Instances
from hostile_files import Touch

from mrcnn_plugin.cli.replay import main as replay_command
from mrcnn_plugin.engine import MRCNNTrainer, NonFiniteError
from mrcnn_plugin.engine.replay import replay, save_step
from mrcnn_plugin.engine.rng import rng_state
from mrcnn_plugin.engine.train_step import NonFiniteStep
from mrcnn_plugin.errors import RunError, one_sentence


def poison(trainer, iteration):
    """One weight of the mask branch becomes infinite before an iteration."""
    trainer_step = trainer._trainer.run_step

    def run_step():
        if trainer.iter == iteration:
            trainer.model.roi_heads.mask_head.predictor.weight.data[0, 0] = float("inf")
        trainer_step()

    trainer._trainer.run_step = run_step


@pytest.fixture(params=["float32", "bfloat16", "pieces"])
def stopped(request, shapes_cfg):
    """(cfg, trainer, error) of a run of five iterations that meets infinity in the third."""
    opts = ("SOLVER.MAX_ITER", 5, "SOLVER.CHECKPOINT_PERIOD", 2)
    more = {"bfloat16": ("SOLVER.AMP.ENABLED", True), "pieces": ("SOLVER.ACCUMULATE", 2)}
    cfg = shapes_cfg(*opts, *more.get(request.param, ()))
    trainer = MRCNNTrainer(cfg)
    poison(trainer, iteration=2)
    with pytest.raises(NonFiniteError) as error:
        trainer.train()
    return cfg, trainer, str(error.value)


def test_the_message_has_everything_that_one_needs(stopped):
    cfg, trainer, message = stopped
    lines = message.splitlines()
    assert lines[0].startswith("iteration 2: loss_mask is not finite (")
    assert "drawn_train/0000" in lines[2] and lines[2].endswith(".png")
    assert f"last good checkpoint: {cfg.OUTPUT_DIR}/model_0000001.pth" in message
    (file,) = Path(cfg.OUTPUT_DIR, "nonfinite").iterdir()
    assert f"mrcnn replay {file}" in message
    weights = trainer.model.roi_heads.box_predictor.cls_score.weight
    assert torch.isfinite(weights).all()
    assert not Path(cfg.OUTPUT_DIR, "model_final.pth").exists()


def test_the_file_gives_the_same_losses_again(stopped):
    cfg, _, _ = stopped
    (file,) = Path(cfg.OUTPUT_DIR, "nonfinite").iterdir()
    saved = torch.load(file, weights_only=True)
    again = replay(file)
    assert (again.iteration, again.what) == (2, "loss_mask")
    assert again.module == "roi_heads.mask_head"
    assert not math.isfinite(again.losses[-1]["loss_mask"])
    for name in ("loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"):
        assert again.losses[-1][name] == saved["losses"][name]  # bit-identical


def test_the_command_in_the_message_repeats_the_step(shapes_cfg, capsys):
    cfg = shapes_cfg()
    trainer = MRCNNTrainer(cfg)
    poison(trainer, iteration=0)
    with pytest.raises(NonFiniteError, match="none yet; it began from random weights") as error:
        trainer.train()
    command = str(error.value).split("compute it again: ")[1].splitlines()[0].split()
    assert command[:2] == ["mrcnn", "replay"]
    assert replay_command(command[2:]) == 1
    assert "not finite: loss_mask\nfirst module" in capsys.readouterr().out


def test_nan_proposals_are_reported_as_well(shapes_cfg):
    """detectron2's RPN raises before there is a loss to check."""
    trainer = MRCNNTrainer(cfg := shapes_cfg())
    trainer.model.proposal_generator.rpn_head.anchor_deltas.weight.data.fill_(float("nan"))
    message = r"iteration 0: the prediction of the RPN \(detectron2: Predicted boxes"
    with pytest.raises(NonFiniteError, match=message):
        trainer.train()
    (file,) = Path(cfg.OUTPUT_DIR, "nonfinite").iterdir()
    assert replay(file).module == "proposal_generator.rpn_head.anchor_deltas"


def test_a_step_that_does_not_fail_again(shapes_cfg):
    cfg = shapes_cfg()
    trainer = MRCNNTrainer(cfg)
    batch = next(iter(trainer.data_loader))
    step = NonFiniteStep("loss_mask", {}, batch, batch, rng_state(), iteration=7)
    again = replay(save_step(step, cfg, trainer.model))
    assert (again.iteration, again.what, again.module) == (7, None, None)
    assert len(again.losses) == 1 and len(again.losses[0]) == 5


def test_a_healthy_run_saves_no_step(shapes_cfg):
    train(cfg := shapes_cfg())
    assert not Path(cfg.OUTPUT_DIR, "nonfinite").exists()


def test_weights_that_do_not_fit_are_an_error(shapes_cfg):
    """A renamed tensor would otherwise leave a random layer, and another step would be replayed."""
    cfg = shapes_cfg()
    trainer = MRCNNTrainer(cfg)
    batch = next(iter(trainer.data_loader))
    step = NonFiniteStep("loss_mask", {}, batch, batch, rng_state(), iteration=7)
    file = save_step(step, cfg, trainer.model)
    saved = torch.load(file, weights_only=True)
    name = "roi_heads.mask_head.predictor.bias"
    saved["model"]["renamed"] = saved["model"].pop(name)
    torch.save(saved, file)
    with pytest.raises(RunError, match=f"2 tensors are missing or unexpected, among them {name}"):
        replay(file)


@pytest.mark.parametrize("content", [None, b"no torch file", {"model": {}}])
def test_a_file_that_is_no_saved_step_is_one_sentence(tmp_path, capsys, content):
    file = tmp_path / "step.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    assert one_sentence("mrcnn replay", replay_command, [str(file)]) == 1
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert printed.splitlines()[-1].startswith(f"mrcnn replay: '{file}' ")


@pytest.fixture
def saved_step(shapes_cfg):
    """(file, content) of a saved step, for tests that change the content."""
    cfg = shapes_cfg()
    trainer = MRCNNTrainer(cfg)
    batch = next(iter(trainer.data_loader))
    step = NonFiniteStep("loss_mask", {}, batch, batch, rng_state(), iteration=7)
    file = save_step(step, cfg, trainer.model)
    return file, torch.load(file, weights_only=True)


@pytest.mark.parametrize("where", ["step", "batch", "old file"])
def test_a_hostile_file_executes_nothing(saved_step, tmp_path, capsys, where):
    file, content = saved_step
    canary = tmp_path / "canary"
    if where == "batch":
        content["batch"][0]["file_name"] = Touch(canary)
    else:
        content = Touch(canary) if where == "step" else {**content, "batch": [Instances((2, 2))]}
    torch.save(content, file)
    assert one_sentence("mrcnn replay", replay_command, [str(file)]) == 1
    printed = capsys.readouterr().err
    assert "names the Python object" in printed and printed.count("\n") == 1
    assert "weights_only" not in printed and not canary.exists()


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"config": "A: !!python/object/apply:os.system ['touch canary']"}, "not yaml of plain"),
        ({"config": "_BASE_: other.yaml"}, "has a _BASE_, which is not followed here"),
        ({"config": "MODEL: {DEVICE: cpu}"}, "cannot be built from its config"),
        ({"config": 3}, "is not a saved step"),
        ({"batch": []}, "its batch has no images"),
        ({"batch": [{"instances": {"structure": "Popen"}}]}, "has no valid Popen"),
        ({"batch": [{"instances": {"structure": "BitMasks", "tensor": 3}}]}, "no valid BitMasks"),
        ({"rng": {"python": 3}}, "its random state is damaged"),
        ({"model": {}}, "do not fit the model"),
    ],
)
def test_a_changed_file_is_one_sentence(saved_step, tmp_path, monkeypatch, change, problem):
    monkeypatch.chdir(tmp_path)
    file, content = saved_step
    torch.save({**content, **change}, file)
    with pytest.raises(RunError, match=problem) as error:
        replay(file)
    assert "\n" not in str(error.value) and not (tmp_path / "canary").exists()
