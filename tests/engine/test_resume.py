"""A run that is killed, stopped or fails continues as if nothing had happened."""

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import read_metrics, run_python, train
from detectron2.engine import HookBase, hooks
from detectron2.utils.events import JSONWriter

from mrcnn_plugin.engine import MRCNNTrainer
from mrcnn_plugin.engine.preflight import check_start
from mrcnn_plugin.engine.resume import is_finished, lock_output_dir, prepare_output_dir
from mrcnn_plugin.engine.stop_signals import Stopped
from mrcnn_plugin.errors import RunError

KILLED_RUN = """
import json, signal, sys
from pathlib import Path
from benchmarks.reliability import _training
from benchmarks.reliability.resume import compare, disturbed_run
folder = Path(sys.argv[1])
_training.register_drawings(folder)
opts = ("SOLVER.MAX_ITER", 14, "SOLVER.STEPS", (7,), "DATALOADER.NUM_WORKERS", int(sys.argv[2]))
status = _training.finish(_training.start(folder / "undisturbed", *opts))
assert status == 0, (folder / "undisturbed/printed.txt").read_text()[-3000:]
number = signal.Signals[sys.argv[3]]
starts = disturbed_run(folder / "run", *opts, number=number, times=4, seed=int(sys.argv[4]))
different = compare(folder / "run", folder / "undisturbed")
print(json.dumps([starts, different]))
"""


@pytest.mark.parametrize(
    "workers, number, status, seed",
    [(0, "SIGKILL", -9, 4), (2, "SIGKILL", -9, 5), (2, "SIGTERM", 75, 6)],
)
def test_a_run_that_is_disturbed_is_bit_identical(workers, number, status, seed, tmp_path):
    """`make reliability SECTIONS=resume` does this with many more signals."""
    done = run_python("-c", KILLED_RUN, tmp_path, workers, number, seed)
    assert done.returncode == 0, done.stderr + done.stdout
    starts, different = json.loads(done.stdout.splitlines()[-1])
    assert [s for _, s in starts].count(status) >= 2 and starts[-1] == ["none", 0]
    assert different == [0, 0]


class Do(HookBase):
    """Calls a function after an iteration."""

    def __init__(self, iteration, function):
        self.iteration, self.function = iteration, function

    def after_step(self):
        if self.trainer.iter == self.iteration:
            self.function()


def start(cfg, *extra, resume=False):
    trainer = MRCNNTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.register_hooks(extra)
    trainer.train()
    return trainer


def send(number):
    return lambda: os.kill(os.getpid(), number)


def content(cfg, name="model_final"):
    return torch.load(f"{cfg.OUTPUT_DIR}/{name}.pth", weights_only=True)


def test_a_signal_saves_the_iteration_and_exits_with_a_status(shapes_cfg, caplog):
    cfg = shapes_cfg("SOLVER.MAX_ITER", 5, "SOLVER.CHECKPOINT_PERIOD", 100, "SEED", 1)
    with pytest.raises(Stopped) as stopped, caplog.at_level("WARNING"):
        start(cfg, Do(2, send(signal.SIGTERM)))
    assert stopped.value.code == 75
    assert Path(cfg.OUTPUT_DIR, "last_checkpoint").read_text() == "model_0000002.pth"
    assert "ends after 3 iterations because of a signal" in caplog.text
    assert not is_finished(cfg)
    assert start(cfg, resume=True).start_iter == 3
    assert content(cfg)["iteration"] == 4 and is_finished(cfg)


class InterruptedTrainer(MRCNNTrainer):
    def evaluate(self):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the evaluation was not interrupted")


@pytest.mark.parametrize("period, interrupted_at", [(2, 2), (0, 3)])
def test_an_interrupted_evaluation_is_repeated(period, interrupted_at, shapes_cfg):
    cfg = shapes_cfg("SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", period)
    with pytest.raises(Stopped):
        InterruptedTrainer(cfg).train()
    trainer = start(cfg, resume=True)
    assert trainer.start_iter == interrupted_at and is_finished(cfg)
    evaluated = [line["iteration"] for line in read_metrics(cfg) if "segm/AP" in line]
    assert evaluated == ([1, 3] if period else [3])


def test_a_failed_evaluation_does_not_lose_the_training(shapes_cfg):
    class Failing(MRCNNTrainer):
        def evaluate(self):
            raise RunError("no")

    cfg = shapes_cfg("TEST.BEST_METRIC", "segm/AP")
    with pytest.raises(RunError, match="no"):
        Failing(cfg).train()
    assert content(cfg)["iteration"] == 1 and not is_finished(cfg)


def test_the_seed_of_the_checkpoint_is_kept(shapes_cfg, caplog):
    cfg = shapes_cfg("SEED", -1, "SOLVER.MAX_ITER", 2, "TEST.REPORT", False)
    seed = train(cfg).seed
    cfg.SOLVER.MAX_ITER, cfg.SEED = 3, 5
    with caplog.at_level("WARNING"):
        assert train(cfg, resume=True).seed == seed
    assert f"its own seed {seed}, not SEED 5" in caplog.text


def test_a_checkpoint_of_detectron2_resumes(shapes_cfg):
    """It has neither a seed nor the state of our hooks."""
    cfg = shapes_cfg("SOLVER.MAX_ITER", 2, "TEST.REPORT", False)
    train(cfg)
    saved = content(cfg)
    del saved["trainer"]["seed"], saved["trainer"]["hooks"]["Evaluation"]
    torch.save(saved, f"{cfg.OUTPUT_DIR}/model_final.pth")
    assert is_finished(cfg)
    cfg.SOLVER.MAX_ITER = 3
    assert train(cfg, resume=True).start_iter == 2


def test_a_run_that_stopped_early_is_finished(shapes_cfg):
    opts = ("TEST.EVAL_PERIOD", 1, "TEST.EARLY_STOP_PATIENCE", 1, "TEST.REPORT", False)
    cfg = shapes_cfg(*opts, "SOLVER.MAX_ITER", 9, "TEST.BEST_METRIC", "mine/score")

    class Constant(MRCNNTrainer):
        def evaluate(self):
            return {"mine": {"score": 1.0}}

    Constant(cfg).train()
    assert content(cfg)["iteration"] == 1 and is_finished(cfg)
    cfg.TEST.EARLY_STOP_PATIENCE = 0
    assert not is_finished(cfg)


def test_a_new_run_sets_the_earlier_one_aside(shapes_cfg):
    cfg = shapes_cfg("TEST.REPORT", False)
    train(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    (folder / "mine.txt").write_text("")
    cfg.MODEL.WEIGHTS = str(folder / "model_final.pth")
    prepare_output_dir(cfg, resume=True)
    assert (folder / "last_checkpoint").exists()
    prepare_output_dir(cfg, resume=False)
    assert {"model_final.pth", "mine.txt"} <= {f.name for f in folder.iterdir()}
    moved = {f.name for f in (folder / "earlier_1").iterdir()}
    assert {"last_checkpoint", "metrics.json"} <= moved
    assert not (folder / "last_checkpoint").exists()
    cfg.SOLVER.MAX_ITER = 1
    train(cfg)
    prepare_output_dir(cfg, resume=False)
    assert (folder / "earlier_2/metrics.json").exists()


def test_half_a_line_of_metrics_is_ended(shapes_cfg):
    cfg = shapes_cfg()
    metrics = Path(cfg.OUTPUT_DIR, "metrics.json")
    metrics.write_text('{"iteration": 19}\n{"iter')
    prepare_output_dir(cfg, resume=True)
    assert metrics.read_text() == '{"iteration": 19}\n{"iter\n'


def test_a_vanished_output_folder_is_made_again(shapes_cfg):
    cfg = shapes_cfg("SOLVER.MAX_ITER", 3, "TEST.REPORT", False)
    start(cfg, Do(1, lambda: shutil.rmtree(cfg.OUTPUT_DIR)))
    assert content(cfg)["iteration"] == 2


def test_weights_of_an_earlier_run_are_not_resumed(shapes_cfg):
    """A fine-tuning in place that was killed before its first checkpoint starts again."""
    cfg = shapes_cfg("TEST.REPORT", False)
    train(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    cfg.MODEL.WEIGHTS = str(folder / "model_final.pth")
    prepare_output_dir(cfg, resume=False)
    assert not is_finished(cfg)
    assert train(cfg, resume=True).start_iter == 0
    assert is_finished(cfg)


def test_a_checkpoint_without_a_tag_belongs_to_an_earlier_run_too(shapes_cfg):
    cfg = shapes_cfg("TEST.REPORT", False)
    train(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    for name in ("last_checkpoint", "metrics.json"):
        (folder / name).unlink()
    (folder / "earlier_2").mkdir()
    for expected in ("earlier_1", "earlier_3"):
        (folder / "model_final.pth").write_bytes(b"")
        prepare_output_dir(cfg, resume=False)
        assert (folder / expected / "model_final.pth").exists()


@pytest.mark.parametrize("name", ["model_best.pth", "model_ema.pth"])
def test_files_of_weights_are_no_checkpoints(name, shapes_cfg):
    cfg = shapes_cfg()
    Path(cfg.OUTPUT_DIR, name).write_bytes(b"")
    with pytest.raises(RunError, match="--eval-only would evaluate random weights"):
        check_start(cfg, training=False, resume=True)


class WithNumpy(HookBase):
    def state_dict(self):
        return {"number": np.float64(3), "array": np.arange(2), "list": [np.int64(1)]}

    def load_state_dict(self, state):
        self.loaded = state


def test_numpy_in_the_state_of_a_hook_can_be_resumed(shapes_cfg):
    cfg = shapes_cfg("SOLVER.MAX_ITER", 1, "TEST.REPORT", False)
    start(cfg, WithNumpy())
    cfg.SOLVER.MAX_ITER, hook = 2, WithNumpy()
    trainer = MRCNNTrainer(cfg)
    trainer.register_hooks([hook])
    trainer.resume_or_load(resume=True)
    assert hook.loaded["number"] == 3.0 and hook.loaded["list"] == [1]
    assert hook.loaded["array"].tolist() == [0, 1]


def test_a_checkpoint_of_another_model_is_one_sentence(shapes_cfg):
    cfg = shapes_cfg("TEST.REPORT", False)
    train(cfg)
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM //= 2
    with pytest.raises(RunError, match=r"--resume: the checkpoint is of another model.*mask_head"):
        train(cfg, resume=True)


@pytest.mark.parametrize("what", [["a list"], {"iteration": "x"}, {"iteration": np.float64(1)}])
def test_a_file_that_is_no_checkpoint_is_not_finished(what, shapes_cfg):
    cfg = shapes_cfg()
    torch.save(what, f"{cfg.OUTPUT_DIR}/model_0000001.pth")
    assert not is_finished(cfg)


class OwnHooks(MRCNNTrainer):
    """As programs of detectron2 override these, without super()."""

    def build_writers(self):
        return [JSONWriter(f"{self.cfg.OUTPUT_DIR}/metrics.json")]

    def build_hooks(self):
        return [hooks.LRScheduler(), hooks.PeriodicCheckpointer(self.checkpointer, 1)]


class OwnWriters(MRCNNTrainer):
    build_writers = OwnHooks.build_writers


@pytest.mark.parametrize("trainer", [OwnHooks, OwnWriters])
def test_trainers_that_replace_hooks_or_writers(trainer, shapes_cfg):
    cfg = shapes_cfg("SOLVER.MAX_ITER", 2, "TEST.REPORT", False)
    trainer(cfg).train()
    assert content(cfg)["iteration"] == 1


FULL_DISK = """
import os, resource, sys
from pathlib import Path
from benchmarks.reliability import _training

pipe = os.dup(1)

def fill():
    os.dup2(pipe, 1)
    os.dup2(pipe, 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))

run = Path(sys.argv[1], "run")
_training.register_drawings(run.parent)
assert _training.finish(_training.start(run, "SOLVER.MAX_ITER", 3)) == 0
status = _training.finish(_training.start(run, "SOLVER.MAX_ITER", 6, disturb=fill))
assert _training.finish(_training.start(run, "SOLVER.MAX_ITER", 6)) == 0
sys.exit(status)
"""


@pytest.mark.parametrize("largest", [200_000, 100])
def test_a_full_disk_is_one_sentence_and_the_run_continues_later(largest, tmp_path):
    """At 200 kB no checkpoint can be written, at 100 bytes no log or metrics either."""
    done = run_python("-c", FULL_DISK, tmp_path, largest)
    assert done.returncode == 1, done.stderr + done.stdout
    assert "File too large" in done.stdout and "Free space" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert torch.load(tmp_path / "run/model_final.pth")["iteration"] == 5


def test_two_runs_cannot_use_one_output_dir(tmp_path):
    """A process holds the lock until it is killed; a child that outlives it, a worker, does not."""
    ready, told = os.pipe()
    lives, still_lives = os.pipe()
    process = os.fork()
    if not process:
        lock_output_dir(str(tmp_path))
        lock_output_dir(f"{tmp_path}/.")  # it is its own
        if os.fork():
            os.write(told, b"1")
        os.close(still_lives)
        os.read(lives, 1)  # until the test ends
        os._exit(0)
    os.close(lives)
    try:
        os.read(ready, 1)
        expected = rf"'{tmp_path}' is in use by process {process} on {socket.gethostname()}\. Wait"
        for _ in range(2):
            with pytest.raises(RunError, match=expected):
                lock_output_dir(str(tmp_path))
        lock_output_dir("s3://bucket/folder")
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        lock_output_dir(str(tmp_path))
        assert (
            tmp_path / ".lock"
        ).read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    finally:
        os.close(still_lives)


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def lockf(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    lock_output_dir(str(tmp_path))
    assert "cannot be locked (No locks available): nothing prevents a second run" in caplog.text
