"""Checks the image files of a dataset: place, existence, readability, size, EXIF rotation."""

import os
from collections import Counter, defaultdict

import numpy as np

from .findings import Findings
from .image_file import (
    Header,
    ImageFault,
    displayed_size,
    max_pixels,
    read_header,
    require_regular,
)
from .places import check_places, place_hint, places_by_name, use_posix_names
from .records import shown

SAMPLE = 1000  # image headers that are read per dataset, unless one of them is wrong

_SATURATED = 0.5  # share of black and white pixels above which an image is saturated
_MANY_SATURATED = 0.1  # of all images; single ones are usually meant to be so


def check_images(
    content: dict,
    image_root: str,
    findings: Findings,
    *,
    full: bool = False,
    thumbnails: dict[str, np.ndarray] | None = None,
) -> None:
    """Check the image files of a COCO json; add missing `width` and `height` to its records.

    Args:
        content: a COCO json.
        image_root: the directory that `file_name`s are relative to.
        findings: receives the problems; unusable images by id.
        full: decode every file, which takes milliseconds per image. Otherwise only the existence of
            every file is checked and the headers of `SAMPLE` files are read, or of all files if one
            of these is wrong. A JPEG or PNG whose end is missing is noticed there as well.
        thumbnails: receives those of the decoded files (`Header.thumbnail`) by path.
    """
    check_records(content, findings)
    if not findings.as_is:
        use_posix_names(content, image_root, findings)
    check_places(content, image_root, findings)
    images = [i for i in content["images"] if i["id"] not in findings.bad_images]
    there = _check_existence(images, image_root, findings)
    _fill_in_sizes(there, image_root, findings)
    _check_lengths(there, image_root, findings)
    there = [i for i in there if i["id"] not in findings.bad_images]
    step = 1 if full else max(1, len(there) // SAMPLE)
    found_before = len(findings.problems)
    headers = {}
    for image in there[::step]:
        path = os.path.join(image_root, image["file_name"])
        headers[path] = _check_file(image, image_root, findings, decode=full)
    headers = {path: header for path, header in headers.items() if header}
    if thumbnails is not None and full:
        thumbnails |= {path: header.thumbnail for path, header in headers.items()}
    if step > 1 and len(findings.problems) > found_before:
        for k, image in enumerate(there):
            if k % step:
                _check_file(image, image_root, findings, decode=False)
    _check_pixels(headers, findings)


def _check_pixels(headers: dict[str, Header], findings: Findings) -> None:
    """Report images whose brightness was probably cut off when they were converted to 8 bits."""
    deep = [path for path, header in headers.items() if header.is_deep]
    if deep:
        fault = f"{len(deep)} of {len(headers)} images read, such as {deep[0]}, have 16 bits per"
        hint = "if they use few of the 16, they become nearly black; convert them with one scale"
        findings.warning("16-bit-rgb", f"{fault} channel; the upper 8 are used", action=hint)
    saturated = [path for path, header in headers.items() if (header.saturated or 0) > _SATURATED]
    if len(saturated) > _MANY_SATURATED * len(headers):
        fault = (
            f"{len(saturated)} of {len(headers)} images, such as {saturated[0]}, are black or "
            f"white in more than {_SATURATED:.0%} of their pixels"
        )
        hint = "if that is not the scene, convert the original images with another scale"
        findings.warning("saturated", fault, action=hint)


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
    """The images whose file is a regular one. Listing directories is faster than many `stat`s."""
    regular: dict[str, set[str]] = {}
    there = []
    places = None  # of files by name; listed once a file is missing
    for image in images:
        path = os.path.join(root, image["file_name"])
        folder, name = os.path.split(path)
        if folder not in regular:
            regular[folder] = _regular_files(folder)
        if name not in regular[folder]:
            try:
                require_regular(path)
            except ImageFault as error:
                if error.kind == "missing-image":
                    places = places_by_name(root) if places is None else places
                    error.hint = place_hint(image["file_name"], root, places)
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
            hint = "correct the size, or resize or cut it (`mrcnn dataset tile --max-pixels N`)"
            findings.bad_image(
                image["id"], path, "image-too-large", f"{fault} an image may have", hint
            )


def _check_file(image: dict, root: str, findings: Findings, *, decode: bool) -> Header | None:
    header = _read(image, root, findings, decode=decode)
    if header is None:
        return None
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
    return header


def _read(image: dict, root: str, findings: Findings, *, decode: bool) -> Header | None:
    path = os.path.join(root, image["file_name"])
    try:
        return read_header(path, decode=decode)
    except ImageFault as error:
        _report(image, path, error, findings)
        return None
