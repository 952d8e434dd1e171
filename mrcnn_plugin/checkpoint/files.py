"""Files that are written whole or not at all, and the newest checkpoint that is whole.

torch.save writes a zip archive with a CRC32 of every record, which torch.load does not verify.
Verifying it finds truncated files and changed bytes without a format of our own.
"""

import contextlib
import logging
import os
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch

from ..errors import RunError

logger = logging.getLogger(__name__)

_TAG = "last_checkpoint"  # detectron2's file with the name of the newest checkpoint
_UNFINISHED = ".unfinished"


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Create or replace a file so that readers, also after a crash, see all of it or the old one.

    The content goes to a temporary file in the same folder, which is flushed to the disk before it
    gets its final name. A missing folder is created.

    Args:
        path: the file.
        write: writes the content to the open binary file that it is called with.

    Raises:
        RunError: the file could not be written, for instance because the disk is full. No file of
            this name has been changed.
    """
    unfinished = path.with_name(path.name + _UNFINISHED)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(unfinished, "wb") as file:
            _call(write, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise RunError(
            f"{path} could not be written ({error.strerror or error}). Free space or make the "
            "folder writable, and run it again (a training with --resume). Files from before are "
            "intact."
        ) from error
    except BaseException:  # Ctrl-C, or the content could not be computed
        unfinished.unlink(missing_ok=True)
        raise


def _call(write: Callable, file: BinaryIO) -> None:
    keeping = _File(file)
    try:
        write(keeping)
    except Exception as error:
        raise keeping.error or error from error


class _File:
    """What torch.save needs of a file. It keeps the error of a failed write, which torch hides."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.error: OSError | None = None
        self.flush = file.flush

    def write(self, data):
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise


def _sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk; some file systems cannot."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Delete the temporary files of a process that was killed in `write_atomically`."""
    for path in folder.glob(f"*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def save_whole(path: Path, content: dict) -> None:
    """`torch.save` through `write_atomically`."""
    write_atomically(path, lambda file: torch.save(content, file))


def damage(path: Path) -> str | None:
    """Why a file of `save_whole` or `torch.save` is not whole, or None if it is.

    Reads the file once and verifies the checksum of every record.
    """
    try:
        if path.stat().st_size == 0:
            return "it is empty"
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except zipfile.BadZipFile as error:
        return f"it is truncated or not a checkpoint ({error})"
    except (OSError, ValueError, NotImplementedError, EOFError, zlib.error) as error:
        return f"it cannot be read ({error})"
    return f"the checksum of its record {broken} is wrong" if broken else None


def tag_checkpoint(folder: Path, name: str) -> None:
    """Write the name of the newest checkpoint to `folder/last_checkpoint`."""
    write_atomically(folder / _TAG, lambda file: file.write(name.encode()))


def find_checkpoint(folder: Path, *, weights: str = "") -> Path | None:
    """The checkpoint to resume from: the newest one in a folder that is whole.

    This is the file that `last_checkpoint` names, as in detectron2: by its name in the folder, or
    by an absolute path. If that is missing or damaged,
    it is the whole one with the most iterations among `model_<iteration>.pth` and
    `model_final.pth`. Every file that is skipped is logged with the reason. None means that there
    is no checkpoint at all.

    Args:
        folder: OUTPUT_DIR.
        weights: a file that the run starts from. It may be in the folder, left by an earlier run,
            and is no checkpoint of this one unless `last_checkpoint` names it.

    Raises:
        RunError: there are checkpoints, and all of them are damaged.
    """
    tagged = _tagged(folder, report=True)
    candidates = [tagged] if tagged else []
    start = os.path.realpath(weights) if weights else None
    others = [path for path in checkpoints(folder) if os.path.realpath(path) != start]
    candidates += [path for path in others if path != tagged]
    for path in candidates:
        problem = damage(path)
        if problem is None:
            if path != candidates[0] or tagged is None:
                logger.warning(f"Resuming from {path}, the newest whole checkpoint")
            return path
        logger.warning(f"Skipping the checkpoint {path}: {problem}")
    if candidates:
        raise RunError(
            f"All {len(candidates)} checkpoints in {folder} are damaged, the newest is "
            f"{candidates[0].name}. Restore one from a backup, or start again without --resume."
        )
    return None


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint to resume from, whole or damaged."""
    return bool(_tagged(folder) or checkpoints(folder))


def _tagged(folder: Path, *, report: bool = False) -> Path | None:
    """The file that `last_checkpoint` names: one in the same folder, or an absolute path."""
    tag = folder / _TAG
    if not tag.is_file():
        return None
    name = tag.read_bytes()[:4096].decode(errors="replace").strip()
    if (Path(name).name == name or Path(name).is_absolute()) and (folder / name).is_file():
        return folder / name
    if report:
        logger.warning(
            f"{tag} contains {name[:256]!r}; expected the name of a checkpoint in {folder}, or the "
            "absolute path of one"
        )
    return None


def checkpoints(folder: Path) -> list[Path]:
    """`model_final.pth` and `model_<iteration>.pth`, most iterations first.

    A run that is continued after its end leaves a `model_final.pth` with fewer iterations than
    newer files have.
    """
    found = []
    for path in folder.glob("model_*.pth"):
        if match := re.fullmatch(r"model_(\d+)", path.stem):
            found.append((int(match[1]), path.name, path))
        elif path.name == "model_final.pth":
            found.append((iteration_of(path), path.name, path))
    return [path for *_, path in sorted(found, reverse=True)]


def iteration_of(path: Path) -> int:
    """The last iteration that is in a checkpoint; -1 if it cannot be read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return int(content["iteration"])
    except Exception:  # each kind of damage raises another
        return -1
