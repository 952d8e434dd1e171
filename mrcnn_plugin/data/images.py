"""Checks the image files of a dataset: place, existence, readability, size, EXIF rotation."""

import os
from collections import Counter, defaultdict

from .findings import Findings
from .image_file import (
    Header,
    ImageFault,
    displayed_size,
    max_pixels,
    read_header,
    require_regular,
)
from .records import shown

SAMPLE = 1000  # image headers that are read per dataset, unless one of them is wrong


def check_images(content: dict, image_root: str, findings: Findings, *, full: bool = False) -> None:
    """Check the image files of a COCO json; add missing `width` and `height` to its records.

    Args:
        content: a COCO json.
        image_root: the directory that `file_name`s are relative to.
        findings: receives the problems; unusable images by id.
        full: decode every file, which takes milliseconds per image. Otherwise only the existence of
            every file is checked and the headers of `SAMPLE` files are read, or of all files if one
            of these is wrong. A JPEG or PNG whose end is missing is noticed there as well.
    """
    check_records(content, findings)
    check_places(content, image_root, findings)
    images = [i for i in content["images"] if i["id"] not in findings.bad_images]
    there = _check_existence(images, image_root, findings)
    _fill_in_sizes(there, image_root, findings)
    _check_lengths(there, image_root, findings)
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


def check_places(content: dict, image_root: str, findings: Findings) -> None:
    """Report file names that lead out of `image_root` by `..` or as an absolute path.

    A json of somebody else could otherwise name any file of this machine. Symbolic links are
    followed, because only who may write to the directory can put them there. The root "/" contains
    every absolute path, and "" is no directory to stay in.
    """
    if not image_root:
        return
    root = os.path.abspath(image_root)
    prefix = root if root == os.sep else root + os.sep
    for image in content["images"]:
        name = image["file_name"]
        if ".." not in name and not os.path.isabs(name):
            continue
        path = os.path.join(image_root, name)
        if not os.path.abspath(path).startswith(prefix):
            fault = f"is outside the image directory {image_root}"
            hint = "move it there, or write absolute file names and pass / as the image directory"
            findings.bad_image(image["id"], path, "outside-directory", fault, hint)


def _check_existence(images: list[dict], root: str, findings: Findings) -> list[dict]:
    """The images whose file is a regular one. Listing directories is faster than many `stat`s."""
    regular: dict[str, set[str]] = {}
    there = []
    for image in images:
        path = os.path.join(root, image["file_name"])
        folder, name = os.path.split(path)
        if folder not in regular:
            regular[folder] = _regular_files(folder)
        if name not in regular[folder]:
            try:
                require_regular(path)
            except ImageFault as error:
                _report(image, path, error, findings)
                continue
        there.append(image)
    return there


def _regular_files(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
    except OSError:  # its files are tested one by one
        return set()


def _report(image: dict, path: str, error: ImageFault, findings: Findings) -> None:
    findings.bad_image(image["id"], path, error.kind, error.fault, error.hint)


def _fill_in_sizes(images: list[dict], root: str, findings: Findings) -> None:
    for image in (image for image in images if not _has_size(image)):
        header = _read(image, root, findings, decode=False)
        if header is None:
            continue
        size = displayed_size(header)
        action = f"{size[0]} x {size[1]} read from the file"
        findings.repaired("no-image-size", "lacks width or height", action, image["id"])
        image["width"], image["height"] = size


def _has_size(image: dict) -> bool:
    sides = image.get("width"), image.get("height")
    return all(type(side) is int and side > 0 for side in sides)


def has_usable_size(image: dict) -> bool:
    """Whether a record has a width and height that masks may be made of, in bounded memory."""
    return _has_size(image) and image["width"] * image["height"] <= max_pixels()


def _check_lengths(images: list[dict], root: str, findings: Findings) -> None:
    """Report sizes of the json that no image can have, before masks of that size are made."""
    for image in images:
        if image["id"] not in findings.bad_images and not has_usable_size(image):
            size = f"{shown(image['width'])} x {shown(image['height'])}"
            fault = f"the json has the size {size}, more than the {max_pixels()} pixels that"
            path = os.path.join(root, image["file_name"])
            hint = "correct the size, or resize the image or cut it into tiles"
            findings.bad_image(
                image["id"], path, "image-too-large", f"{fault} an image may have", hint
            )


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
    except ImageFault as error:
        _report(image, path, error, findings)
        return None
