"""The faults of `benchmarks.reliability.data`: each damages a dataset of three images on disk."""

import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64  # pixels
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]

Damage = Callable[[dict, Path], None]  # of the content of the json, and of the second image file


def good_content() -> dict:
    """Three images with an object each; the images are saved by `save_images`."""
    numbers = range(1, 4)
    return {
        "info": {},
        "licenses": [],
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE} for i in numbers
        ],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": 1,
                "iscrowd": 0,
                "area": 400,
                "bbox": [10, 10, 20, 20],
                "segmentation": [SQUARE],
            }
            for i in numbers
        ],
        "categories": [{"id": 1, "name": "square"}],
    }


def save_images(content: dict, folder: Path) -> None:
    rng = np.random.default_rng(0)
    for image in content["images"]:
        Image.fromarray(_noise(rng)).save(folder / image["file_name"])


def _noise(rng=None) -> np.ndarray:
    rng = rng or np.random.default_rng(1)
    return rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def _put(section: str, **values) -> Damage:
    """Change the second record of a list of the json."""
    return lambda content, file: content[section][min(1, len(content[section]) - 1)].update(values)


def _all(**values) -> Damage:
    return lambda content, file: [a.update(values) for a in content["annotations"]]


def _polygon(x) -> Damage:
    return _put("annotations", segmentation=[[10, 10, x, 10, 30, 30]])


def _rle(counts, size=(SIDE, SIDE)) -> Damage:
    return _put("annotations", segmentation={"size": list(size), "counts": counts})


def _nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def _save(mode: str, suffix: str = "png", **options) -> Damage:
    def damage(content, file):
        image = Image.fromarray(_noise()).convert(mode)
        image.save(file.with_suffix(f".{suffix}"), **options)
        if suffix != "png":
            os.replace(file.with_suffix(f".{suffix}"), file)

    return damage


def _array(dtype, suffix: str) -> Damage:
    def damage(content, file):
        name = file.with_suffix(f".{suffix}").name
        content["images"][1]["file_name"] = name
        values = np.arange(SIDE * SIDE).reshape(SIDE, SIDE).astype(dtype)
        Image.fromarray(values).save(file.with_name(name))

    return damage


def _write(data: bytes | Callable[[bytes], bytes]) -> Damage:
    return lambda content, file: file.write_bytes(
        data if isinstance(data, bytes) else data(file.read_bytes())
    )


def _replace(make: Callable[[Path], object]) -> Damage:
    def damage(content, file):
        file.unlink()
        make(file)

    return damage


def _declared(side: int) -> Damage:
    """A PNG of some hundred bytes that declares side x side pixels, and so does the json."""

    def chunk(kind, body):
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    def damage(content, file):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels)
        content["images"][1].update(width=side, height=side)

    return damage


def _one_pixel(content, file):
    Image.new("RGB", (1, 1), "red").save(file)
    content["images"][1].update(width=1, height=1)
    box = {"bbox": [0, 0, 1, 1], "segmentation": [[0, 0, 1, 0, 1, 1, 0, 1]], "area": 1}
    content["annotations"][1].update(box)


def _exif(content, file):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_noise()[:32]).save(file, exif=exif)
    content["images"][1].update(width=SIDE, height=32)


def _socket(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(file))


def _outside(name: str) -> Damage:
    def damage(content, file):
        os.replace(file, file.parents[1] / "outside.png")
        content["images"][1]["file_name"] = name.format(root=file.parents[1])

    return damage


def _link(content, file):
    os.replace(file, file.parents[1] / "outside.png")
    file.symlink_to("../outside.png")


_ZIGZAG = [v for i in range(40_000) for v in (SIDE * (i % 2), i % SIDE)]
_HALF = lambda data: data[: len(data) // 2]  # noqa: E731

IN_JSON: dict[str, Damage] = {
    "polygon vertex 5 pixels outside": _polygon(SIDE + 5),
    "polygon vertex at 1e7": _polygon(1e7),
    "polygon vertex at 1e9": _polygon(1e9),
    "polygon vertex at 1e30": _polygon(1e30),
    "polygon vertex at 1e308": _polygon(1e308),
    "polygon vertex at infinity": _polygon(float("inf")),
    "polygon vertex of 401 digits": _polygon(10**400),
    "polygon with 40,000 edges across the image": _put("annotations", segmentation=[_ZIGZAG]),
    "RLE string that is too short": _rle("T3X3"),
    "RLE string that is too long": _rle("PPPPk0PPPPk0"),
    "RLE string of 5,000 letters o": _rle("o" * 5000),
    "RLE string that ends inside a number": _rle("PPo"),
    "RLE string with a negative run": _rle("O`n3"),
    "RLE of another size": _rle([200], (10, 20)),
    "RLE of size [1e9, 1e9]": _rle([10**18], (10**9, 10**9)),
    "RLE list of 1,000,000 runs": _rle([0] * 1_000_000),
    "RLE list with a negative run": _rle([SIDE * SIDE + 10, -10]),
    "file_name is 5": _put("images", file_name=5),
    "file_name is null": _put("images", file_name=None),
    "file_name is a list": _put("images", file_name=["a.png"]),
    "image id is an object": _put("images", id={}),
    "image_id is a list": _put("annotations", image_id=[1]),
    "category_id is an object": _put("annotations", category_id={}),
    "category_id is true": _put("annotations", category_id=True),
    "category name is an object": _put("categories", name={}),
    "category name is a lone surrogate": _put("categories", name="\ud800"),
    "bbox has a number of 401 digits": _put("annotations", bbox=[1, 1, 10**400, 4]),
    "bbox is nested 500 levels deep": _put("annotations", bbox=_nested(500)),
    'area is "x"': _put("annotations", area="x"),
    "area is NaN": _put("annotations", area=float("nan")),
    'iscrowd is "yes"': _put("annotations", iscrowd="yes"),
    "width and height are 1e9": _put("images", width=10**9, height=10**9),
    "all annotations are crowd regions": _all(iscrowd=1),
    "no annotations": lambda content, file: content["annotations"].clear(),
    "one of three annotations is a crowd region": _put("annotations", iscrowd=1),
    "boxes are [x1, y1, x2, y2]": _all(bbox=[10, 10, 30, 30]),
    "boxes are normalised to 0..1": _all(bbox=[0.1, 0.1, 0.3, 0.3]),
    "file_name ../outside.png": _outside("../outside.png"),
    "file_name is an absolute path outside": _outside("{root}/outside.png"),
}
TEXTS: dict[str, str] = {  # the whole json
    "json is null": "null",
    "json of 100,000 nested lists": "[" * 100_000 + "]" * 100_000,
    "json that ends early": '{"images": [',
}
IN_IMAGE: dict[str, Damage] = {
    "missing": _replace(lambda file: None),
    "FIFO": _replace(os.mkfifo),
    "socket": _replace(_socket),
    "device (link to /dev/zero)": _replace(lambda file: file.symlink_to("/dev/zero")),
    "directory": _replace(os.mkdir),
    "symbolic link out of the directory": _link,
    "0 bytes": _write(b""),
    "a text file": _write(b"<html>"),
    "PNG, truncated": _write(_HALF),
    "JPEG, truncated": lambda c, f: (_save("RGB", "jpg")(c, f), _write(_HALF)(c, f)),
    "PNG, damaged in the middle": _write(lambda d: d[:6000] + bytes(200) + d[6200:]),
    "JPEG called .png": _save("RGB", "jpg"),
    "grey, 8 bits": _save("L"),
    "grey, 16 bits": _array(np.uint16, "png"),
    "grey, 32-bit float": _array(np.float32, "tif"),
    "RGBA": _save("RGBA"),
    "palette": _save("P"),
    "CMYK": _save("CMYK", "jpg"),
    "EXIF rotation that the json ignores": _exif,
    "1 x 1": _one_pixel,
    "declares 20,000 x 20,000": _declared(20_000),
    "declares 60,000 x 60,000": _declared(60_000),
}
