"""Best weights and early stopping with metrics written by hand, also across a resume."""

import pytest
import torch
from builders import read_metrics, train
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage
from torch import nn

from mrcnn_plugin.engine.hooks.best_weights import BestWeights
from mrcnn_plugin.engine.hooks.early_stopping import EarlyStopping
from mrcnn_plugin.engine.hooks.metric import higher_is_better
from mrcnn_plugin.errors import RunError

NAN = float("nan")


class ScriptedTrainer:
    """A loop without a model. Evaluation `i`, every second iteration, computes `values[i]`."""

    def __init__(self, hook, values, metric, start_iter=0):
        self.hook, self.values, self.metric = hook, values, metric
        self.start_iter, self.max_iter = start_iter, start_iter + 2 * len(values)
        self.stopped = None
        hook.trainer = self

    def stop_after_this_step(self):
        self.stopped = self.iter

    def run(self):
        with EventStorage(self.start_iter) as self.storage:
            self.hook.before_train()
            for iteration in range(self.start_iter, self.max_iter):
                self.iter = self.storage.iter = iteration
                if (self.iter + 1) % 2 == 0:
                    value = self.values[(self.iter - self.start_iter) // 2]
                    self.storage.put_scalar(self.metric, value, smoothing_hint=False)
                self.hook.after_step()
                if self.stopped is not None:
                    break
        return self


@pytest.mark.parametrize(
    ("metric", "values", "stopped"),
    [
        ("segm/AP", [10, 20, 20, 30, 29, 28, 27], 11),  # 29 and 28 are worse than 30
        ("segm/AP", [NAN, NAN, 10, 11], 3),  # NaN is no improvement, also at first
        ("validation/total_loss", [3.0, 2.0, 2.5, 1.0, 1.5, 1.0, 0.5], 11),
        ("segm/AP", [1, 2, 3, 4], None),
    ],
)
def test_stops_after_two_evaluations_without_improvement(metric, values, stopped):
    hook = EarlyStopping(metric=metric, patience=2, period=2)
    assert ScriptedTrainer(hook, values, metric).run().stopped == stopped


@pytest.mark.parametrize(
    ("metric", "higher"),
    [
        ("my_val/segm/AP50", True),
        ("segm/AP-floss", True),  # classes whose names contain or are "loss"
        ("segm/AP-glossy ibis", True),
        ("segm/AP-loss", True),
        ("validation/loss_mask", False),
        ("validation/total_loss", False),
        ("total_loss", False),
    ],
)
def test_lower_is_better_for_losses_only(metric, higher):
    assert higher_is_better(metric) == higher


def test_the_count_continues_after_a_resume():
    first = EarlyStopping(metric="segm/AP", patience=3, period=2)
    ScriptedTrainer(first, [50, 40, 41], "segm/AP").run()
    state = first.state_dict()
    assert state == {"metric": "segm/AP", "best": 50.0, "num_worse": 2, "stopped": False}
    assert type(state["best"]) is float  # a numpy scalar would make a file that does not resume
    resumed = EarlyStopping(metric="segm/AP", patience=3, period=2)
    resumed.load_state_dict(state)
    assert ScriptedTrainer(resumed, [42, 43], "segm/AP", start_iter=6).run().stopped == 7


def test_another_metric_starts_from_zero():
    hook = EarlyStopping(metric="bbox/AP", patience=3, period=2)
    hook.load_state_dict({"metric": "segm/AP", "best": 50.0, "num_worse": 2})
    assert (hook.best, hook.num_worse) == (None, 0)


def test_best_weights_are_those_of_the_best_evaluation(tmp_path):
    model = nn.Linear(1, 1)
    hook = BestWeights(metric="segm/AP", model=model, output_dir=str(tmp_path))
    trainer = ScriptedTrainer(hook, [10, 30, 20], "segm/AP")
    put = EventStorage.put_scalar

    def put_and_mark(storage, name, value, **kwargs):
        nn.init.constant_(model.bias, value)
        put(storage, name, value, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventStorage, "put_scalar", put_and_mark)
        trainer.run()
    saved = torch.load(tmp_path / "model_best.pth")
    assert saved["model"]["bias"].item() == 30
    assert (saved["metric"], saved["value"], saved["iteration"]) == ("segm/AP", 30.0, 3)
    assert not (tmp_path / "last_checkpoint").exists()  # --resume continues from the last one

    # The checkpoint was written before the evaluation with 30, the process died after it.
    resumed = BestWeights(metric="segm/AP", model=model, output_dir=str(tmp_path))
    resumed.load_state_dict({"metric": "segm/AP", "best": 10.0})
    nn.init.constant_(model.bias, 25.0)
    ScriptedTrainer(resumed, [25], "segm/AP", start_iter=2).run()
    assert torch.load(tmp_path / "model_best.pth")["value"] == 30.0


@pytest.mark.parametrize("length", [0, 100, 1000])
def test_a_truncated_file_of_best_weights_does_not_prevent_a_resume(tmp_path, caplog, length):
    options = {"metric": "segm/AP", "model": nn.Linear(1, 1), "output_dir": str(tmp_path)}
    ScriptedTrainer(BestWeights(**options), [30], "segm/AP").run()
    file = tmp_path / "model_best.pth"
    file.write_bytes(file.read_bytes()[:length])
    resumed = BestWeights(**options)
    resumed.load_state_dict({"metric": "segm/AP", "best": 10.0})
    ScriptedTrainer(resumed, [20], "segm/AP", start_iter=2).run()
    assert "model_best.pth cannot be read" in caplog.text
    assert torch.load(file)["value"] == 20.0


def test_a_metric_that_is_not_evaluated_is_named_with_those_that_are():
    hook = EarlyStopping(metric="segm/APP", patience=1, period=2)
    with pytest.raises(RunError, match=r"'segm/APP', but the evaluation computed segm/AP\. Set it"):
        ScriptedTrainer(hook, [10], "segm/AP").run()


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("TEST.EARLY_STOP_PATIENCE", 2), r"needs TEST\.BEST_METRIC"),
        (
            ("TEST.EARLY_STOP_PATIENCE", 2, "TEST.BEST_METRIC", "segm/AP"),
            r"needs TEST\.EVAL_PERIOD, which is 0",
        ),
        (("TEST.BEST_METRIC", "validation/total_loss"), r"needs TEST\.VAL_LOSS"),
    ],
)
def test_keys_that_need_others_say_so_at_the_start(shapes_cfg, opts, message):
    with pytest.raises(RunError, match=message):
        train(shapes_cfg(*opts))


def test_a_run_that_stops_early_ends_as_others_do(shapes_cfg, monkeypatch):
    """A validation loss that grows ends a run of 100 iterations at the second evaluation."""
    grows = iter(range(1, 100))
    monkeypatch.setattr(
        "mrcnn_plugin.engine.build_hooks.validation_loss",
        lambda model, loader: {"total_loss": float(next(grows))},
    )
    opts = (
        *("TEST.VAL_LOSS", True, "TEST.BEST_METRIC", "validation/total_loss"),
        *("TEST.EARLY_STOP_PATIENCE", 1, "TEST.EVAL_PERIOD", 2, "SOLVER.MAX_ITER", 100),
    )
    trainer = train(cfg := shapes_cfg(*opts))
    output = trainer.checkpointer.save_dir
    final = torch.load(f"{output}/model_final.pth")
    assert final["iteration"] == 3 and torch.load(f"{output}/model_best.pth")["iteration"] == 1
    assert final["trainer"]["hooks"]["EarlyStopping"]["num_worse"] == 1
    evaluated = [m["iteration"] for m in read_metrics(cfg) if "segm/AP" in m]
    assert evaluated == [1, 3]  # the weights after iteration 3 are not evaluated again at the end

    resumed = train(cfg, resume=True)  # already without patience: one more evaluation, and the end
    assert resumed.iter == 6


def test_a_finished_run_has_nothing_left_to_train(shapes_cfg, caplog):
    """Otherwise each `--resume` evaluates again and adds a line to metrics.json."""
    train(cfg := shapes_cfg())
    lines = read_metrics(cfg)
    train(cfg, resume=True)
    assert read_metrics(cfg) == lines
    assert "Nothing left to train: the checkpoint has 2 iterations" in caplog.text


class Explode(HookBase):
    def after_step(self):
        raise RuntimeError("told to")


def test_a_run_that_fails_still_fails(shapes_cfg):
    from mrcnn_plugin.engine import MRCNNTrainer

    trainer = MRCNNTrainer(shapes_cfg())
    trainer.register_hooks([Explode()])
    with pytest.raises(RuntimeError, match="told to"):
        trainer.train()
