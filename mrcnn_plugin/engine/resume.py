"""What a run finds in its OUTPUT_DIR: itself, to be continued, an earlier run, or a running one."""

import contextlib
import fcntl
import itertools
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..checkpoint.checkpointer import agreed_checkpoint
from ..checkpoint.files import checkpoints, remove_unfinished
from ..errors import RunError

logger = logging.getLogger(__name__)

_FILES_OF_A_RUN = (
    *("last_checkpoint", "model_*.pth", "metrics.json", "config.yaml", "run.json", "report.html"),
    "events.out.tfevents.*",
)

_LOCK = ".lock"  # in OUTPUT_DIR; it stays there and means nothing without a process that holds it
_locked: dict[str, TextIO] = {}  # the open file by folder; closing any other would release it


def lock_output_dir(folder: str) -> None:
    """Reserve a folder for this process until it ends, however it ends. Call it on rank 0 only.

    The kernel releases the lock, so there is nothing to clean up after a kill. It is a record lock
    (`fcntl.lockf`): unlike `flock` it is not inherited by the workers of a data loader, which live
    a few seconds longer than a killed process, and NFS passes it on to the other machines.

    Raises:
        RunError: a process holds it already.
    """
    path = Path(os.path.realpath(folder), _LOCK)
    if "://" in folder or str(path) in _locked:
        return
    file = open(path, "a+")  # noqa: SIM115  stays open
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        holder = file.read(1000).strip() or "another process"
        file.close()
        raise RunError(
            f"OUTPUT_DIR '{folder}' is in use by {holder}. Wait until it ends or stop it, or set "
            "another OUTPUT_DIR."
        ) from None
    except OSError as error:
        file.close()
        logger.warning(
            f"{path} cannot be locked ({error.strerror}): nothing prevents a second run in this "
            "OUTPUT_DIR. On NFS, mount it with locks."
        )
        return
    _locked[str(path)] = file
    with contextlib.suppress(OSError):  # the text is for the message only
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()


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
