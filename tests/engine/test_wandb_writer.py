"""Weights & Biases, with a module of that name that keeps what it is given."""

import sys
from types import SimpleNamespace

import pytest
from builders import read_metrics, train

from mrcnn_plugin.engine import MRCNNTrainer
from mrcnn_plugin.errors import RunError


class FakeRun:
    def __init__(self, **settings):
        self.settings, self.logged, self.finished = settings, [], False

    def log(self, values, step):
        assert not self.logged or step >= self.logged[-1][0]  # W&B drops what goes back
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


def test_scalars_and_config_are_logged(shapes_cfg, monkeypatch):
    runs = []

    def init(**settings):
        runs.append(FakeRun(**settings))
        return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    train(cfg := shapes_cfg("WANDB_PROJECT", "shapes", "TEST.EVAL_PERIOD", 1))
    (run,) = runs
    assert run.settings["project"] == "shapes" and run.settings["dir"] == cfg.OUTPUT_DIR
    assert run.settings["config"]["SOLVER"]["BASE_LR"] == 0.02
    values = {step: {} for step, _ in run.logged}
    for step, logged in run.logged:
        values[step].update(logged)
    assert run.finished and "total_loss" in values[1] and "segm/AP" in values[2]
    assert {m["iteration"] for m in read_metrics(cfg)} >= set(values)


def test_asked_for_and_not_installed(shapes_cfg, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RunError, match=r"is 'shapes', but wandb is not installed. Run `pip"):
        MRCNNTrainer(shapes_cfg("WANDB_PROJECT", "shapes"))


def test_not_asked_for_it_is_not_imported(shapes_cfg, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    MRCNNTrainer(shapes_cfg())
