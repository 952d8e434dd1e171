"""Checks where the file names of a dataset lead, and finds files that are named wrongly."""

import os
from itertools import islice
from pathlib import Path, PureWindowsPath

from .findings import Findings

_MOST_FILES = 100_000  # that are listed to find a missing one


def check_places(content: dict, image_root: str, findings: Findings) -> None:
    """Report file names that lead out of `image_root` by `..` or as an absolute path.

    A json of somebody else could otherwise name any file of this machine. Symbolic links are
    followed, because only who may write to the directory can put them there. The root "/" contains
    every absolute path, and "" is no directory to stay in.
    """
    if not image_root:
        return
    root = os.path.abspath(image_root)
    prefix = os.path.join(root, "")
    real_prefix = os.path.join(os.path.realpath(root), "")
    for image in content["images"]:
        name = image["file_name"]
        if ".." not in name and not os.path.isabs(name):
            continue
        path = os.path.join(image_root, name)
        inside = os.path.abspath(path).startswith(prefix)
        # A directory may be given through a link and named without it in the file, or vice versa.
        if not inside and not os.path.realpath(path).startswith(real_prefix):
            fault = f"is outside the image directory {image_root}"
            hint = "move it there, or write absolute file names and pass / as the image directory"
            findings.bad_image(image["id"], path, "outside-directory", fault, hint)


def use_posix_names(content: dict, image_root: str, findings: Findings) -> None:
    """Replace `\\` in file names by `/`, where only this makes them name a file."""
    for image in content["images"]:
        name = image["file_name"]
        if "\\" not in name or os.path.lexists(os.path.join(image_root, name)):
            continue
        posix = PureWindowsPath(name).as_posix()
        if os.path.isfile(os.path.join(image_root, posix)):
            action = "read as /, with which the file exists"
            findings.repaired("windows-path", f"{name} has the separator \\", action, image["id"])
            image["file_name"] = posix


def places_by_name(root: str) -> dict[str, str]:
    """A path relative to `root` for each name of a file below it, for up to `_MOST_FILES`.

    None for the root of the file system, which is the root of absolute file names.
    """
    if os.path.abspath(root) == os.sep:
        return {}
    walk = ((folder, name) for folder, _, names in os.walk(root) for name in names)
    files = islice(walk, _MOST_FILES)
    return {n: Path(os.path.relpath(os.path.join(f, n), root)).as_posix() for f, n in files}


def place_hint(file_name: str, root: str, places: dict[str, str]) -> str:
    """Where a missing file probably is; file names of Windows are understood."""
    if not os.path.isdir(root):
        return f"the image directory {root} does not exist"
    place = places.get(PureWindowsPath(file_name).name)
    if place is None:
        return ""
    return f"{root} has {place}: write that as file_name, or pass the directory it is relative to"
