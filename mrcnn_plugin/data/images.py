"""Checks image files: existence, readability, size, EXIF rotation, equal files."""

import hashlib
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image

from .findings import Findings

SAMPLE = 1000  # image headers that are read per dataset, unless one of them is wrong

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


class Header(NamedTuple):
    """Size in pixels as stored, and the EXIF orientation (1 for none)."""

    width: int
    height: int
    orientation: int


def check_images(content: dict, image_root: str, findings: Findings, *, full: bool = False) -> None:
    """Check the image files of a COCO json; add missing `width` and `height` to its records.

    Args:
        content: a COCO json.
        image_root: the directory that `file_name`s are relative to.
        findings: receives the problems; unusable images by id.
        full: decode every file, which takes milliseconds per image. Otherwise only the existence of
            every file is checked and the headers of `SAMPLE` files are read, or of all files if one
            of these is wrong.
    """
    check_records(content, findings)
    images = [i for i in content["images"] if i["id"] not in findings.bad_images]
    there = _check_existence(images, image_root, findings)
    _fill_in_sizes(there, image_root, findings)
    there = [i for i in there if i["id"] not in findings.bad_images]
    step = 1 if full else max(1, len(there) // SAMPLE)
    found_before = len(findings.problems)
    for image in there[::step]:
        _check_file(image, image_root, findings, decode=full)
    if step > 1 and len(findings.problems) > found_before:
        for k, image in enumerate(there):
            if k % step:
                _check_file(image, image_root, findings, decode=False)


def check_records(content: dict, findings: Findings) -> None:
    """Report image ids and file names that are used twice."""
    images = content["images"]
    repeated = {image_id for image_id, n in Counter(i["id"] for i in images).items() if n > 1}
    for image_id in repeated:
        files = [image["file_name"] for image in images if image["id"] == image_id]
        fault = f"{len(files)} images have this id: {', '.join(files[:4])}"
        file = findings.json_file
        findings.bad_image(image_id, file, "duplicate-image-id", fault, "give each its own")
    if len({image["file_name"] for image in images}) == len(images):
        return
    ids = defaultdict(set)
    for image in images:
        ids[image["file_name"]].add(image["id"])
    for file, image_ids in ids.items():
        if len(image_ids) > 1:
            first, second, *_ = sorted(image_ids, key=str)
            fault = f"{file} is the file of {len(image_ids)} images, such as {first} and {second}"
            hint = "objects annotated for one id count as background for the other"
            findings.warning("file-twice", fault, image_id=second, action=hint)


def _check_existence(images: list[dict], root: str, findings: Findings) -> list[dict]:
    """The images whose file exists. Listing directories is faster than a test per file."""
    listed: dict[str, set[str]] = {}
    there = []
    for image in images:
        path = os.path.join(root, image["file_name"])
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name in listed[folder] or os.path.isfile(path):
            there.append(image)
        else:
            findings.bad_image(image["id"], path, "missing-image", "the file does not exist")
    return there


def _fill_in_sizes(images: list[dict], root: str, findings: Findings) -> None:
    lacking = [
        i for i in images if not (_is_length(i.get("width")) and _is_length(i.get("height")))
    ]
    for image in lacking:
        header = _read(image, root, findings, decode=False)
        if header is None:
            continue
        size = displayed_size(header)
        action = f"{size[0]} x {size[1]} read from the file"
        findings.repaired("no-image-size", "lacks width or height", action, image["id"])
        image["width"], image["height"] = size


def _is_length(value) -> bool:
    return isinstance(value, int) and value > 0


def _check_file(image: dict, root: str, findings: Findings, *, decode: bool) -> None:
    header = _read(image, root, findings, decode=decode)
    if header is None:
        return
    path = os.path.join(root, image["file_name"])
    in_json, shown = (image["width"], image["height"]), displayed_size(header)
    stored = header.width, header.height
    if in_json == stored != shown:
        fault = (
            f"EXIF orientation {header.orientation} makes it {shown[0]} x {shown[1]}, the json has "
            f"{in_json[0]} x {in_json[1]}, the size before rotation"
        )
        hint = "rotate the pixels, remove the tag (mogrify -auto-orient) and annotate the result"
        findings.bad_image(image["id"], path, "exif-rotation", fault, hint)
    elif in_json != shown:
        fault = f"the file is {shown[0]} x {shown[1]}, the json has {in_json[0]} x {in_json[1]}"
        hint = "the annotations belong to another image or to another size of it"
        findings.bad_image(image["id"], path, "size-mismatch", fault, hint)
    elif header.orientation != 1 and stored == shown:
        fault = f"EXIF orientation {header.orientation} rotates or mirrors it within the same size"
        hint = "verify with `mrcnn dataset draw` that the masks lie on the objects"
        findings.warning("exif-rotation", fault, file=path, image_id=image["id"], action=hint)


def _read(image: dict, root: str, findings: Findings, *, decode: bool) -> Header | None:
    path = os.path.join(root, image["file_name"])
    try:
        return read_header(path, decode=decode)
    except Exception as error:  # Pillow's plugins raise many kinds for damaged files
        fault = f"cannot be read as an image ({type(error).__name__}: {error})"
        findings.bad_image(image["id"], path, "unreadable-image", fault)
        return None


def read_header(path: str | Path, *, decode: bool = False) -> Header:
    """Size and EXIF orientation of an image file; `decode` reads all of it, as training does."""
    with Image.open(path) as image:
        width, height = image.size
        # A PNG may keep EXIF behind its pixels, and Pillow would decode them to get there.
        cheap = image.format != "PNG" or "exif" in image.info
        exif = image.getexif() if cheap or decode else {}
        orientation = exif.get(ExifTags.Base.Orientation, 1)
        if decode:
            image.draft(image.mode, (max(1, width // 8), max(1, height // 8)))  # JPEG: faster
            image.load()
    return Header(width, height, orientation if orientation in range(1, 9) else 1)


def displayed_size(header: Header) -> tuple[int, int]:
    """(width, height) after the EXIF rotation, as detectron2 reads the file."""
    size = header.width, header.height
    return size[::-1] if header.orientation in _SIDEWAYS else size


def same_files(left: list[str], right: list[str]) -> dict[str, str]:
    """Map files of `left` to the file of `right` that has the same bytes, where there is one.

    Files are compared by size, then by 4 KB from their middle, then by a hash of everything.
    """
    pairs = [(left, right)]
    for key in (_size, _middle, _digest):
        pairs = [group for pair in pairs for group in _grouped(*pair, key)]
    return {path: right_ones[0] for left_ones, right_ones in pairs for path in left_ones}


def _grouped(left: list[str], right: list[str], key) -> list[tuple[list[str], list[str]]]:
    """Split both lists by key; only groups that have files of both lists are returned."""
    groups: dict = defaultdict(lambda: ([], []))
    for side, paths in enumerate((left, right)):
        for path in paths:
            groups[key(path)][side].append(path)
    groups.pop(None, None)
    return [group for group in groups.values() if group[0] and group[1]]


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:  # missing, which is reported elsewhere
        return None


def _middle(path: str) -> bytes:
    with open(path, "rb") as file:
        file.seek(os.path.getsize(path) // 2)
        return file.read(4096)


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).digest()
