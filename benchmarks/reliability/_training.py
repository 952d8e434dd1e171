"""Trains a tiny model in child processes, which can be killed at chosen moments."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import HookBase

from mrcnn_plugin.checkpoint import files
from mrcnn_plugin.cli import train
from mrcnn_plugin.data import make_shapes
from mrcnn_plugin.engine import MRCNNTrainer
from mrcnn_plugin.errors import one_sentence
from mrcnn_plugin.evaluation import AnalysingCOCOEvaluator

CONFIG = Path(__file__).resolve().parents[2] / "configs/mask_rcnn_shapes_C4.yaml"
MAX_ITER = 24

# Everything that has a state: averaged weights, accumulation, the best metric, early stopping.
OPTS = (
    *("SEED", 7, "SOLVER.MAX_ITER", MAX_ITER, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUMULATE", 2),
    *("SOLVER.CHECKPOINT_PERIOD", 3, "SOLVER.STEPS", (10,), "SOLVER.EMA_DECAY", 0.9),
    *("TEST.EVAL_PERIOD", 4, "TEST.VAL_LOSS", True, "TEST.BEST_METRIC", "validation/total_loss"),
    *("TEST.EARLY_STOP_PATIENCE", 20, "TEST.REPORT", False, "MODEL.DEVICE", "cpu"),
    *("DATASETS.TRAIN", ("kill_train",), "DATASETS.TEST", ("kill_val",)),
    *("INPUT.MIN_SIZE_TRAIN", (64, 96), "INPUT.MIN_SIZE_TEST", 64, "DATASETS.CHECK", False),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 40, "MODEL.RPN.POST_NMS_TOPK_TEST", 10),
)


def register_drawings(folder: Path) -> None:
    """Draw `kill_train` and `kill_val` into a folder and register them."""
    for name, count, seed in (("kill_train", 10, 5), ("kill_val", 4, 6)):
        json_file = folder / name / "shapes.json"
        make_shapes(json_file, count, seed=seed)
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        register_coco_instances(name, {}, str(json_file), str(json_file.parent))


class LossLog(HookBase):
    """Appends `iteration, total loss as hexadecimal` to `OUTPUT_DIR/losses.txt`."""

    def after_step(self):
        loss = float(self.trainer.storage.latest()["total_loss"][0]).hex()
        with open(Path(self.trainer.cfg.OUTPUT_DIR, "losses.txt"), "a") as file:
            file.write(f"{self.trainer.iter} {loss}\n")


def kill_this_process(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def kill_at_time(seconds: float, number: int = signal.SIGKILL) -> None:
    timer = threading.Timer(seconds, kill_this_process, [number])
    timer.daemon = True
    timer.start()


def kill_in_checkpoint(num_writes: int, number: int = signal.SIGKILL) -> None:
    """At the n-th write to any file of `files.write_atomically`, from now on."""
    _count_down(files._File, "write", num_writes, number)


def kill_in_evaluation(num_images: int, number: int = signal.SIGKILL) -> None:
    """At the n-th batch of images that is evaluated, from now on."""
    _count_down(AnalysingCOCOEvaluator, "process", num_images, number)


def _count_down(owner: type, name: str, count: int, number: int) -> None:
    original = getattr(owner, name)
    left = count

    def counted(self, *args):
        nonlocal left
        left -= 1
        if left == 0:
            kill_this_process(number)
        return original(self, *args)

    setattr(owner, name, counted)


def start(output: Path, *opts, disturb: Callable[[], None] = lambda: None) -> int:
    """Train with `--resume` in a forked process; returns its pid.

    Forking saves the seconds in which a new Python imports torch.

    Args:
        output: OUTPUT_DIR; what the process prints is appended to `output/printed.txt`.
        opts: config keys and values.
        disturb: called in the process before it trains.
    """
    output.mkdir(parents=True, exist_ok=True)
    if pid := os.fork():
        return pid
    status = 1
    try:
        printed = os.open(output / "printed.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        torch.set_num_threads(1)
        build_hooks = MRCNNTrainer.build_hooks
        MRCNNTrainer.build_hooks = lambda self: [LossLog(), *build_hooks(self)]
        disturb()
        arguments = ["--config-file", CONFIG, "--resume", "OUTPUT_DIR", output, *OPTS, *opts]
        status = one_sentence("train", train.main, [str(argument) for argument in arguments]) or 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finish(pid: int) -> int:
    """Wait for a process; returns its exit status, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def losses(output: Path) -> dict[int, set[str]]:
    """All losses that were computed for each iteration, by any of the processes of a run."""
    found: dict[int, set[str]] = {}
    for line in (output / "losses.txt").read_text().splitlines():
        iteration, loss = line.split()
        found.setdefault(int(iteration), set()).add(loss)
    return found


def differences(one: object, other: object, path: str = "") -> list[str]:
    """Where two contents of checkpoints differ by a bit, as dotted paths."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [d for k in one for d in differences(one[k], other[k], f"{path}.{k}")]
    if isinstance(one, (list, tuple)) and type(one) is type(other) and len(one) == len(other):
        return [
            d for i, (a, b) in enumerate(zip(one, other)) for d in differences(a, b, f"{path}.{i}")
        ]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [path]
    return [] if one == other else [path]


def final(output: Path) -> dict:
    """The content of `model_final.pth`, without the config, which names OUTPUT_DIR."""
    content = torch.load(output / "model_final.pth", map_location="cpu", weights_only=True)
    del content["config"]
    return content
