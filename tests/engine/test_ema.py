"""The moving average of weights: its formula, where it is used, its life across a resume."""

import pytest
import torch
from builders import tiny_cfg, train
from torch import nn

from mrcnn_plugin.engine.hooks.ema import EMAHook
from mrcnn_plugin.engine.options import check_training_options
from mrcnn_plugin.errors import RunError


def hook_on(model, tmp_path, decay=0.999):
    hook = EMAHook(model=model, decay=decay, output_dir=str(tmp_path))
    hook.before_train()
    return hook


def test_the_formula(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    hook = hook_on(model, tmp_path, decay=0.2)
    nn.init.constant_(model.weight, 11.0)
    hook.after_step()  # d = 2/11: 0 + (1 - 2/11) 11 = 9
    assert hook.average["weight"].item() == pytest.approx(9)
    nn.init.constant_(model.weight, 4.0)
    hook.after_step()  # d = min(0.2, 3/12): 0.2 * 9 + 0.8 * 4 = 5
    assert hook.average["weight"].item() == pytest.approx(5)
    assert model.weight.item() == 4


def test_the_average_is_in_the_model_while_it_is_evaluated(tmp_path):
    model = nn.BatchNorm1d(1)
    hook = hook_on(model, tmp_path)
    model.running_mean.fill_(7.0)
    model.num_batches_tracked.fill_(3)

    def values():
        return model.running_mean.item(), model.num_batches_tracked.item()

    with hook.applied():
        assert values() == (0.0, 3)  # counters are not averaged
    with pytest.raises(ZeroDivisionError), hook.applied():
        raise ZeroDivisionError
    assert values() == (7.0, 3)


def test_decay_is_checked():
    with pytest.raises(RunError, match=r"EMA_DECAY is 1\.0; expected 0 \(off\)"):
        check_training_options(tiny_cfg("SOLVER.EMA_DECAY", 1.0))


def test_evaluated_saved_and_resumed(shapes_cfg, monkeypatch):
    evaluated = []

    def loss_of_weights(model, loader):
        evaluated.append(model.roi_heads.box_predictor.cls_score.weight.clone())
        return {"total_loss": 1.0}

    monkeypatch.setattr("mrcnn_plugin.engine.build_hooks.validation_loss", loss_of_weights)
    opts = (
        *("SOLVER.EMA_DECAY", 0.5, "TEST.VAL_LOSS", True),
        *("TEST.BEST_METRIC", "validation/total_loss"),
    )
    name = "roi_heads.box_predictor.cls_score.weight"
    trainer = train(cfg := shapes_cfg(*opts))
    own = trainer.model.state_dict()[name]
    load = {f: torch.load(f"{cfg.OUTPUT_DIR}/model_{f}.pth") for f in ("ema", "final", "best")}
    assert torch.equal(load["final"]["model"][name], own) and not torch.equal(evaluated[-1], own)
    assert torch.equal(load["ema"]["model"][name], evaluated[-1])
    assert torch.equal(load["best"]["model"][name], evaluated[0])
    assert load["ema"]["iteration"] == 1

    cfg.SOLVER.MAX_ITER = 4
    resumed = train(cfg, resume=True)
    cfg.merge_from_list(["OUTPUT_DIR", f"{cfg.OUTPUT_DIR}_in_one"])
    uninterrupted = EMAHook(model=nn.Linear(1, 1), decay=0.5, output_dir="")
    uninterrupted.load_state_dict(load["final"]["trainer"]["hooks"]["EMAHook"])
    assert uninterrupted.num_steps == 2
    assert torch.equal(uninterrupted.average[name], evaluated[0])
    assert [h.num_steps for h in resumed._hooks if isinstance(h, EMAHook)] == [4]
