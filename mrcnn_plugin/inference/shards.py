"""Predicts a part of many images into one compressed file that is whole or does not exist.

`predictions-0003-of-0016.jsonl.gz` has one json per line and image:

    {"image": "a/1.jpg", "height": 480, "width": 640, "annotations": [...]}
    {"image": "a/2.jpg", "error": "the file does not exist"}

Annotations are those of COCO, without ids and with `class`, the name.
"""

import gzip
import json
import os
import re
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from detectron2.structures import Instances

from ..checkpoint.files import write_atomically
from ..errors import RunError
from .formats import to_coco
from .inputs import Frame

_FRAME = re.compile(r"/\d{6,}\.png$")  # of a video


class Shard(NamedTuple):
    """Part `number`, from 1 to `total`, of all images."""

    number: int
    total: int

    @staticmethod
    def parse(text: str) -> "Shard":
        """Read "3/16".

        Raises:
            RunError: it is something else.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise RunError(f"--shard is '{text}'; expected I/N with I from 1 to N, such as 3/16")
        return Shard(int(match[1]), int(match[2]))

    def select(self, names: Iterable[str]) -> list[str]:
        """The names in this part. It depends on a name only, not on the other names."""
        own = self.number - 1
        return [n for n in names if zlib.crc32(os.fsencode(n)) % self.total == own]

    def path(self, folder: str | Path) -> Path:
        return Path(folder, f"predictions-{self.number:04}-of-{self.total:04}.jsonl.gz")


def check_finished(path: Path, names: Sequence[str]) -> None:
    """Check that a finished shard has the results of these images and videos.

    Raises:
        RunError: it has those of others, or cannot be read.
    """
    found = set()
    for line in _lines(path):
        found |= {line["image"], _FRAME.sub("", line["image"])}
    if missing := {*names} - found:
        raise RunError(
            f"{path} is finished but lacks {len(missing)} of {len(names)} images, such as "
            f"{min(missing)}. Delete it to compute it again, or choose another --out."
        )


def write_shard(path: Path, lines: Iterable[dict]) -> None:
    """Write lines as compressed json, whole or not at all, also if two processes write at once.

    Files that killed processes have left for this shard are deleted.
    """
    own = path.with_name(f"{path.name}.{uuid.uuid4().hex}")

    def write(file) -> None:
        with gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as compressed:
            for line in lines:
                compressed.write(json.dumps(line).encode() + b"\n")

    try:
        write_atomically(own, write)
        os.replace(own, path)
    except (RunError, OSError):
        if not path.exists():  # else another process has finished it and deleted this file
            raise
    finally:
        for left in path.parent.glob(f"{path.name if path.exists() else own.name}?*"):
            left.unlink(missing_ok=True)


def to_line(frame: Frame, instances: Instances | None, class_names: Sequence[str]) -> dict:
    """The line of an image, or that of a file that could not be read."""
    if instances is None:
        return {"image": frame.name, "error": frame.error}
    annotations = to_coco(instances, frame.name)
    for annotation in annotations:
        del annotation["id"], annotation["image_id"]
        annotation["class"] = class_names[annotation["category_id"] - 1]
    height, width = instances.image_size
    return {"image": frame.name, "height": height, "width": width, "annotations": annotations}


def read_shards(folder: str | Path) -> Iterator[dict]:
    """The lines of all shards in a directory.

    Raises:
        RunError: there is no shard, one is missing, or they belong to different totals.
    """
    found = sorted(Path(folder).glob("predictions-*-of-*.jsonl.gz"))
    totals = {int(path.name.split("-")[3].split(".")[0]) for path in found}
    if len(totals) != 1:
        raise RunError(f"{folder} has shards of the totals {sorted(totals)}; expected one total")
    expected = [Shard(k + 1, total).path(folder) for total in totals for k in range(total)]
    if missing := [path.name for path in expected if path not in found]:
        raise RunError(f"{folder} lacks {len(missing)} shards, such as {missing[0]}")
    for path in expected:
        yield from _lines(path)


def _lines(path: Path) -> Iterator[dict]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from map(json.loads, file)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise RunError(
            f"{path} is damaged ({error}). Delete it and run its shard again."
        ) from error
