"""Files that exist completely or not at all under their name."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from detectron2.utils import comm

from ..errors import RunError


def cannot_write(path: Path | str, error: OSError) -> RunError:
    """The error that names the process, the file and the cause."""
    return RunError(
        f"Rank {comm.get_rank()} on {socket.gethostname()} cannot write {path} "
        f"({error}). Free space or restore the folder, and evaluate again"
    )


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that is renamed to `path` at the end, and removed after an error.

    The directory is created if needed.

    Raises:
        RunError: the file cannot be written.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
