"""`name=json:images`: a data set on the command line and in `DATASETS.FILES`."""

import os
import re
from pathlib import PurePath
from typing import NamedTuple


class DatasetSpec(NamedTuple):
    """A COCO json file, the directory its `file_name`s start from, and a name for the pair."""

    name: str
    json_file: str
    image_root: str

    @classmethod
    def parse(cls, text: str) -> "DatasetSpec":
        """Read `name=json:images`; the name defaults to the json's, images to its directory.

        Raises:
            ValueError: `text` is not of this form.
        """
        name, equals, paths = text.partition("=")
        if not equals:
            name, paths = "", text
        json_file, image_root = _split_paths(paths)
        name = name if equals else PurePath(json_file).stem
        if not json_file or not re.fullmatch(r"[\w.\-]+", name):
            raise ValueError(
                f"'{text}' is not a data set: expected name=path/to/annotations.json:path/to/images"
                " (the name of letters, digits, '_', '-' and '.'; without ':path/to/images' the "
                "images are looked for beside the json)"
            )
        return cls(name, json_file, image_root or os.path.dirname(json_file) or ".")

    def absolute(self) -> "DatasetSpec":
        """The same files from any working directory; addresses such as `s3://` stay as they are."""
        paths = (p if "://" in p else os.path.abspath(p) for p in (self.json_file, self.image_root))
        return DatasetSpec(self.name, *paths)

    def __str__(self) -> str:
        return f"{self.name}={self.json_file}:{self.image_root}"


def is_spec(text: str) -> bool:
    """Whether `text` names files; otherwise it is the name of a registered data set."""
    return "=" in text or ".json" in text


def _split_paths(paths: str) -> tuple[str, str]:
    """`a.json:images` -> both; a colon inside either (`C:`, `s3://`) does not disturb."""
    head, found, tail = paths.partition(".json:")
    if found:
        return head + ".json", tail
    if paths.endswith(".json"):
        return paths, ""
    head, _, tail = paths.rpartition(":")
    return head, tail
