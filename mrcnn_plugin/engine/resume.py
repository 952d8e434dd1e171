"""What a run finds in its OUTPUT_DIR: itself, to be continued, or an earlier run."""

import itertools
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..checkpoint.checkpointer import agreed_checkpoint
from ..checkpoint.files import checkpoints, remove_unfinished

logger = logging.getLogger(__name__)

_FILES_OF_A_RUN = (
    *("last_checkpoint", "model_*.pth", "metrics.json", "config.yaml", "run.json", "report.html"),
    "events.out.tfevents.*",
)


def is_finished(cfg: CfgNode) -> bool:
    """Whether the run in `OUTPUT_DIR` has ended: by `MAX_ITER` or early, and has been evaluated.

    Call it in every process.
    """
    path = agreed_checkpoint(cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS)
    if not path:
        return False
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        num_iterations = content["iteration"] + 1
    except Exception:  # not a checkpoint of a run; the checkpointer says so when it loads the file
        return False
    hooks: Mapping = content.get("trainer", {}).get("hooks", {})
    evaluated = hooks.get("Evaluation", {}).get("num_evaluated", num_iterations)
    stopped = cfg.TEST.EARLY_STOP_PATIENCE and hooks.get("EarlyStopping", {}).get("stopped")
    return evaluated == num_iterations and (num_iterations >= cfg.SOLVER.MAX_ITER or bool(stopped))


def prepare_output_dir(cfg: CfgNode, *, resume: bool) -> None:
    """Make `OUTPUT_DIR` ready for training, on the main process.

    A new run moves the files of an earlier one to `OUTPUT_DIR/earlier_1` and so on, so that
    `--resume` never continues the wrong run. `MODEL.WEIGHTS` stays where it is.
    """
    folder = Path(cfg.OUTPUT_DIR)
    if not comm.is_main_process() or "://" in cfg.OUTPUT_DIR:
        return
    remove_unfinished(folder)
    _end_last_line(folder / "metrics.json")
    weights = os.path.realpath(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else None
    used = [folder / "last_checkpoint", folder / "metrics.json", *checkpoints(folder)]
    if resume or not any(file.exists() and os.path.realpath(file) != weights for file in used):
        return
    number = next(i for i in itertools.count(1) if not (folder / f"earlier_{i}").exists())
    target = folder / f"earlier_{number}"
    target.mkdir()
    for pattern in _FILES_OF_A_RUN:
        for file in folder.glob(pattern):
            if os.path.realpath(file) != weights:
                file.rename(target / file.name)
    logger.warning(f"{folder} has an earlier run, whose files are now in {target}")


def _end_last_line(file: Path) -> None:
    """A killed run may leave half a line, to which the next one must not be appended."""
    if file.exists() and (content := file.read_bytes()) and not content.endswith(b"\n"):
        with open(file, "ab") as end:
            end.write(b"\n")
