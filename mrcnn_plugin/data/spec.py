"""`name=json:images`, a dataset on the command line and in `DATASETS.FILES`."""

import os
import re
from pathlib import PurePath
from typing import NamedTuple

from .coco_file import DataError


class DatasetSpec(NamedTuple):
    """A COCO json file, the directory that its `file_name`s are relative to, and a name."""

    name: str
    json_file: str
    image_root: str

    @classmethod
    def parse(cls, text: str) -> "DatasetSpec":
        """Parse `name=json:images`. The name defaults to that of the json, images to its directory.

        Raises:
            DataError: `text` does not have this form.
        """
        name, equals, paths = text.partition("=")
        if not equals:
            name, paths = "", text
        json_file, image_root = _split_paths(paths)
        name = name if equals else PurePath(json_file).stem
        if not json_file or not re.fullmatch(r"[\w.\-]+", name):
            raise DataError(
                f"'{text}' is not a dataset: expected name=path/to/annotations.json:path/to/images"
                " (the name has letters, digits, '_', '-' and '.'; ':path/to/images' defaults to "
                "the directory of the json)"
            )
        return cls(name, json_file, image_root or os.path.dirname(json_file) or ".")

    def absolute(self) -> "DatasetSpec":
        """The same files from any working directory; URLs such as `s3://` are not changed."""
        paths = (p if "://" in p else os.path.abspath(p) for p in (self.json_file, self.image_root))
        return DatasetSpec(self.name, *paths)

    def __str__(self) -> str:
        return f"{self.name}={self.json_file}:{self.image_root}"


def is_spec(text: str) -> bool:
    """Whether `text` names files; otherwise it is the name of a registered dataset."""
    return "=" in text or ".json" in text


def _split_paths(paths: str) -> tuple[str, str]:
    """`a.json:images` -> both; a colon inside either (`C:`, `s3://`) is kept."""
    head, found, tail = paths.partition(".json:")
    if found:
        return head + ".json", tail
    if paths.endswith(".json"):
        return paths, ""
    head, _, tail = paths.rpartition(":")
    return head, tail
