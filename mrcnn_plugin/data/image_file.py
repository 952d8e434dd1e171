"""Reads the header of one image file, and rejects files that training would hang on or misread."""

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_SPECIAL = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_DEEP_MODES = ("I", "F")  # and I;16 in its byte orders: Pillow clips them at 255 for RGB
_END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_TAIL = 16  # bytes; the last chunk of a PNG has 12

THUMBNAIL = 16, 17  # (height, width): 16 differences in each of 16 rows


class ImageFault(Exception):
    """An image file cannot be used.

    Attributes:
        kind: a word to group by, "missing-image".
        fault: what is wrong with the file, without its name.
        hint: what to do about it, or "".
    """

    def __init__(self, kind: str, fault: str, hint: str = ""):
        super().__init__(kind, fault, hint)
        self.kind, self.fault, self.hint = kind, fault, hint

    def __str__(self) -> str:
        return f"{self.fault}; {self.hint}" if self.hint else self.fault


class Header(NamedTuple):
    """What `read_header` reads of an image file.

    Attributes:
        width, height: in pixels as stored.
        orientation: of EXIF, 1 for none.
        is_deep: it has 16 bits per channel, of which Pillow keeps the upper 8.
        saturated: share of the pixels that are black or white, from 0 to 1. None if not decoded.
        thumbnail: the whole image in gray, uint8 of the shape `THUMBNAIL`. None if not decoded.
    """

    width: int
    height: int
    orientation: int
    is_deep: bool = False
    saturated: float | None = None
    thumbnail: np.ndarray | None = None


def max_pixels() -> float:
    """The largest width x height that Pillow opens, twice its `MAX_IMAGE_PIXELS`."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else float("inf")


def require_regular(path: str | Path) -> None:
    """Raise an `ImageFault` unless `path` is a regular file, or a symbolic link to one.

    Nothing is opened, because opening a FIFO waits until somebody writes into it.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise ImageFault("missing-image", "the file does not exist") from None
    except OSError as error:
        raise ImageFault("unreadable-image", f"cannot be opened ({error.strerror})") from None
    kind = _SPECIAL.get(stat.S_IFMT(status.st_mode))
    if kind:
        raise ImageFault("not-a-file", f"is {kind}, expected a regular file")
    if status.st_size == 0:
        raise ImageFault("unreadable-image", "is empty (0 bytes)")


def read_header(path: str | Path, *, decode: bool = False) -> Header:
    """Size, EXIF orientation and bit depth of an image file.

    Args:
        path: a file on disk.
        decode: read all pixels, as training does, and return `saturated` and `thumbnail` (of a
            JPEG computed at an eighth of its size, which is faster). Otherwise a JPEG or PNG is
            decoded only if its end marker is not within its last bytes, where a truncated file
            lacks it.

    Raises:
        ImageFault: it is not a regular file, not an image, truncated, larger than `max_pixels()`,
            or has more than 8 bits per channel that would be clipped.
    """
    require_regular(path)
    try:
        with Image.open(path) as image:
            return _read_header(image, path, decode)
    except ImageFault:
        raise
    except Image.DecompressionBombError as error:
        hint = "resize it, or cut it with `mrcnn dataset tile --max-pixels N`"
        raise ImageFault("image-too-large", f"is too large to be opened ({error})", hint) from error
    except Exception as error:  # Pillow's plugins raise many kinds for damaged files
        fault = f"cannot be read as an image ({type(error).__name__}: {error})"
        raise ImageFault("unreadable-image", fault) from error


def _read_header(image: Image.Image, path: str | Path, decode: bool) -> Header:
    width, height = image.size
    if image.mode in _DEEP_MODES or image.mode.startswith("I;16"):
        fault = f"has 16 or 32 bits per pixel (mode {image.mode}), which are clipped at 255"
        hint = "convert all images to 8 bits with one scale"
        raise ImageFault("pixel-depth", fault, hint)
    is_deep = any(re.search(r";16[BLNS]", str(tile[3])) for tile in image.tile)  # no BGR;16 of BMP
    # A PNG may keep EXIF behind its pixels, and Pillow would decode them to get there.
    cheap = image.format != "PNG" or "exif" in image.info
    exif = image.getexif() if cheap or decode else {}
    orientation = exif.get(ExifTags.Base.Orientation, 1)
    orientation = orientation if orientation in range(1, 9) else 1
    if decode or not _has_end(image.format, path):
        image.draft(image.mode, (max(1, width // 8), max(1, height // 8)))  # JPEG: faster
        image.load()
    pixels = _summary(image) if decode else ()
    return Header(width, height, orientation, is_deep, *pixels)


def _summary(image: Image.Image) -> tuple[float, np.ndarray]:
    """`saturated` and `thumbnail` of a `Header`."""
    gray = image.convert("L")
    counts = gray.histogram()
    saturated = 0.0 if image.mode == "1" else (counts[0] + counts[-1]) / sum(counts)
    return saturated, np.asarray(gray.resize(THUMBNAIL[::-1], Image.Resampling.BILINEAR))


def _has_end(image_format: str | None, path: str | Path) -> bool:
    """Whether a JPEG or PNG ends with its end marker; True for other formats."""
    marker = _END_MARKERS.get(image_format)
    if marker is None:
        return True
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _TAIL))
        return marker in file.read(_TAIL)


def displayed_size(header: Header) -> tuple[int, int]:
    """(width, height) after the EXIF rotation, as detectron2 reads the file."""
    size = header.width, header.height
    return size[::-1] if header.orientation in _SIDEWAYS else size
