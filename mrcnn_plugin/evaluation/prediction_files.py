"""Predictions on disk: a file per process, read by rank 0 in the order of image ids.

A file has one line per image, the json list of its COCO results. Memory holds the position of each
line only.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from detectron2.data import Metadata
from detectron2.utils import comm

from ..checkpoint.files import write_atomically
from ..errors import RunError

_BUFFER = 1 << 20  # bytes that a process collects before it writes
_CHUNK = 1 << 20  # bytes that a process sends at once if rank 0 cannot read its file
_FOLDER = "predictions_rank{}_"


@dataclass(frozen=True)
class Part:
    """The predictions of one process.

    Attributes:
        file: path, "" if there are no predictions.
        size: of the file in bytes.
        lines: (image id, first byte, number of bytes with the newline) per line.
        error: why the file is not complete, or "".
    """

    file: str
    size: int
    lines: list[tuple[int | str, int, int]]
    error: str = ""


class PredictionWriter:
    """Writes the predictions of this process to a temporary folder that is removed with it."""

    def __init__(self, output_dir: str | None):
        """
        Args:
            output_dir: where the folder is created. None stands for the system's temporary folder.
        """
        self._output_dir = output_dir
        self._file: Path | None = None
        self._buffer = bytearray()
        self._size = 0
        self._lines: list[tuple[int | str, int, int]] = []
        self._finalizer: weakref.finalize | None = None

    def folder(self) -> Path:
        """The folder, which is created by the first call."""
        if self._finalizer is None:
            if self._output_dir:
                Path(self._output_dir).mkdir(parents=True, exist_ok=True)
            prefix = _FOLDER.format(comm.get_rank())
            path = tempfile.mkdtemp(prefix=prefix, dir=self._output_dir)
            self._finalizer = weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)
            self._path = Path(path)
        return self._path

    def write(self, image_id: int | str, results: list[dict]) -> None:
        """Add the COCO results of an image.

        Raises:
            RunError: the file cannot be written.
        """
        line = json.dumps(results).encode() + b"\n"
        self._lines.append((image_id, self._size, len(line)))
        self._size += len(line)
        self._buffer += line
        if len(self._buffer) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered. Raises a `RunError` if this is not possible."""
        if not self._buffer:
            return
        try:
            self._file = self.folder() / "predictions.jsonl"
            with self._file.open("ab") as file:
                file.write(self._buffer)
        except OSError as error:
            target = self._file or self._output_dir or tempfile.gettempdir()
            raise _cannot_write(target, error) from error
        self._buffer.clear()

    def part(self) -> Part:
        """What rank 0 needs to read the flushed predictions."""
        return Part(str(self._file or ""), self._size, self._lines)

    def remove(self) -> None:
        """Remove the folder. It is also removed when the writer is deleted."""
        if self._finalizer:
            self._finalizer()


def _cannot_write(path: Path | str, error: OSError) -> RunError:
    return RunError(
        f"Rank {comm.get_rank()} on {socket.gethostname()} cannot write predictions to {path} "
        f"({error.strerror or error}). Free space or make the folder writable, and evaluate again"
    )


def with_category_ids(results: list[dict], metadata: Metadata) -> list[dict]:
    """Replace the class indices of the model by the category ids of the dataset, in place.

    Raises:
        RunError: the dataset does not have a class.
    """
    mapping = metadata.get("thing_dataset_id_to_contiguous_id")
    category_ids = {v: k for k, v in mapping.items()} if mapping else None
    for result in results if category_ids else ():
        index = result["category_id"]
        if index not in category_ids:
            raise RunError(
                f"A prediction has class {index}, but {metadata.name} has only "
                f"{len(category_ids)} classes. Set MODEL.ROI_HEADS.NUM_CLASSES to this number"
            )
        result["category_id"] = category_ids[index]
    return results


def remove_leftovers(output_dir: str) -> None:
    """Remove the folders of killed processes.

    Each rank removes those of its own number modulo the number of processes, so that it never
    removes the folder of a process that is running.
    """
    pattern = re.compile(_FOLDER.format(r"(\d+)") + r"\w+")
    for path in Path(output_dir).glob(_FOLDER.format("*") + "*"):
        match = pattern.fullmatch(path.name)
        if match and int(match[1]) % comm.get_world_size() == comm.get_rank():
            shutil.rmtree(path, ignore_errors=True)


def bring_to_rank_0(parts: Sequence[Part], writer: PredictionWriter) -> Sequence[Part]:
    """Make the files of all processes readable on rank 0, a collective call.

    If the processes share a file system, nothing is copied. Otherwise rank 0 receives the files in
    chunks of 1 MiB per process.

    Args:
        parts: of all ranks, in order. Every rank passes the same.
        writer: of this process. The copies go to the folder of rank 0.

    Raises:
        RunError: rank 0 cannot write the copies. Every rank raises the same.
    """
    if all(comm.all_gather([_is_readable(part) for part in parts])[0]):
        return parts
    error = ""
    try:
        parts = _copy_to_rank_0(parts, writer)
    except RunError as raised:
        error = str(raised)
    error = comm.all_gather(error)[0]
    if error:
        raise RunError(error)
    return parts


def _is_readable(part: Part) -> bool:
    return not part.file or (os.path.isfile(part.file) and os.path.getsize(part.file) == part.size)


def _copy_to_rank_0(parts: Sequence[Part], writer: PredictionWriter) -> list[Part]:
    own, copies, failure = parts[comm.get_rank()].file, {}, None
    with open(own or os.devnull, "rb") as source:
        for _ in range(0, max(part.size for part in parts), _CHUNK):
            # Only rank 0 receives anything. After a failure it still takes part in every round.
            for rank, chunk in enumerate(comm.gather(source.read(_CHUNK))):
                try:
                    if chunk and not failure:
                        copies[rank] = writer.folder() / f"rank{rank}.jsonl"
                        with copies[rank].open("ab") as target:
                            target.write(chunk)
                except OSError as error:
                    failure = _cannot_write(copies.get(rank, tempfile.gettempdir()), error)
    if failure:
        raise failure
    return [replace(part, file=str(copies.get(rank, ""))) for rank, part in enumerate(parts)]


def read_lines(parts: Sequence[Part]) -> Iterator[bytes]:
    """Yield the json list of each image, in the order of image ids, whatever the number of parts.

    An image that was predicted several times, as samplers do that pad, counts once.
    """
    positions: dict = {}
    for part in parts:
        for image_id, start, size in part.lines:
            positions.setdefault(image_id, (part.file, start, size))
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context(open(name, "rb"))
            for name in {file for file, _, _ in positions.values()}
        }
        for image_id in sorted(positions):
            name, start, size = positions[image_id]
            files[name].seek(start)
            yield files[name].read(size)[:-1]


def write_results(lines: Iterable[bytes], path: Path) -> None:
    """Write one COCO results json from the lists of the images, completely or not at all.

    Raises:
        RunError: the file cannot be written.
    """

    def write(file: BinaryIO) -> None:
        separator = b"["
        for line in lines:
            if line != b"[]":
                file.write(separator + line[1:-1])
                separator = b", "
        file.write(b"[]" if separator == b"[" else b"]")

    write_atomically(path, write)
