"""Image files of every kind: what the check answers, and what training reads."""

import os
import socket
import struct
import zlib

import numpy as np
import pytest
from coco_files import coco_content, save_image, write_dataset
from detectron2.data import detection_utils as utils
from PIL import Image

from mrcnn_plugin.data.check import check_content
from mrcnn_plugin.data.findings import Findings
from mrcnn_plugin.data.image_file import ImageFault, read_header


def declared_png(path, width, height):
    """A PNG of some hundred bytes whose header declares any size."""

    def chunk(kind, body):
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def bind_socket(path):
    os.chdir(path.parent)  # the path of a socket has at most 108 characters
    socket.socket(socket.AF_UNIX).bind(path.name)


def truncated(path):
    save_image(path, 64, 64)
    path.write_bytes(path.read_bytes()[:3000])


# A file, the kind of fault, and a part of the message.
FAULTS = {
    "FIFO": (os.mkfifo, "not-a-file", "is a FIFO, expected a regular file"),
    "link to FIFO": (
        lambda path: (os.mkfifo(path.with_name("fifo")), path.symlink_to("fifo")),
        "not-a-file",
        "is a FIFO",
    ),
    "socket": (bind_socket, "not-a-file", "is a socket"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "not-a-file", "is a device"),
    "directory": (lambda path: path.mkdir(), "not-a-file", "is a directory"),
    "dangling link": (lambda path: path.symlink_to("gone"), "missing-image", "does not exist"),
    "loop of links": (lambda path: path.symlink_to(path), "unreadable-image", "cannot be opened"),
    "empty": (lambda path: path.write_bytes(b""), "unreadable-image", "is empty (0 bytes)"),
    "text": (lambda path: path.write_text("<html>"), "unreadable-image", "cannot identify"),
    "truncated": (truncated, "unreadable-image", "truncated"),
    "20000 x 20000": (lambda p: declared_png(p, 20_000, 20_000), "image-too-large", "exceeds"),
    "60000 x 60000": (lambda p: declared_png(p, 60_000, 60_000), "image-too-large", "dataset tile"),
    "16 bits": (
        lambda path: Image.fromarray(np.full((10, 20), 3000, np.uint16)).save(path),
        "pixel-depth",
        "mode I;16",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_files_that_cannot_be_used(tmp_path, monkeypatch, name):
    """None of them is opened in a way that could wait, and none is decoded."""
    make, kind, message = FAULTS[name]
    monkeypatch.chdir(tmp_path)
    content = coco_content()
    write_dataset(tmp_path, content)
    (tmp_path / "2.png").unlink()
    make(tmp_path / "2.png")
    findings = Findings("data.json")
    after = check_content(content, findings, str(tmp_path))
    (problem,) = findings.problems
    assert (problem.severity.value, problem.kind, problem.image_id) == ("error", kind, 2)
    assert problem.file == str(tmp_path / "2.png") and message in f"{problem}"
    assert [image["id"] for image in after["images"]] == [1, 3]
    with pytest.raises(ImageFault, match=r"\w+"):
        read_header(tmp_path / "2.png")


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16, ">u2"])
def test_pixels_of_more_than_8_bits_are_an_error(tmp_path, dtype):
    path = tmp_path / "deep.tif"
    Image.fromarray(np.zeros((10, 20), dtype)).save(path)
    with pytest.raises(ImageFault, match=r"mode (F|I).*; convert all images to 8 bits"):
        read_header(path)


@pytest.mark.parametrize(
    "suffix, options", [("jpg", {}), ("jpg", {"progressive": True}), ("png", {})]
)
def test_files_that_end_early_are_noticed_by_their_end(tmp_path, suffix, options):
    path = tmp_path / f"a.{suffix}"
    save_image(path, 300, 200, **options)
    whole = path.read_bytes()
    for length in (len(whole) // 2, len(whole) - 200):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageFault, match="truncated"):
            read_header(path)
    path.write_bytes(whole + bytes(10_000))  # a trailer of a camera hides the marker
    assert read_header(path)[:2] == (300, 200)


# How an 8-bit grey ramp is stored; training reads it as BGR with these largest differences.
KINDS = {
    "L.png": 0,
    "LA.png": 0,
    "RGBA.png": 0,
    "P.png": 0,
    "L.jpg": 8,
    "CMYK.jpg": 12,
    "RGB.bmp": 0,
    "RGB.gif": 0,
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_images_that_are_read_right(tmp_path, name):
    """Also with a wrong extension: the format is found in the file."""
    mode, suffix = name.split(".")
    grey = np.tile(np.arange(0, 240, 12, np.uint8), (10, 1))
    image = Image.fromarray(grey)
    image = image.convert(mode) if mode in "LAP" else image.convert("RGB").convert(mode)
    image.save(tmp_path / f"right.{suffix}")
    os.rename(tmp_path / f"right.{suffix}", tmp_path / "wrong.tiff")
    assert read_header(tmp_path / "wrong.tiff", decode=True)[:2] == (20, 10)
    pixels = utils.read_image(str(tmp_path / "wrong.tiff"), format="BGR").astype(int)
    assert np.abs(pixels - grey[:, :, None]).max() <= KINDS[name]


def test_an_image_of_one_pixel_is_trained_on(tmp_path):
    content = coco_content(1, width=1, height=1)
    for annotation in content["annotations"]:
        annotation.update(bbox=[0, 0, 1, 1], area=1, segmentation=[[0, 0, 1, 0, 1, 1, 0, 1]])
    write_dataset(tmp_path, content, size=(1, 1))
    findings = Findings("data.json")
    check_content(content, findings, str(tmp_path), full=True)
    assert findings.problems == []
    assert utils.read_image(str(tmp_path / "1.png"), format="BGR").shape == (1, 1, 3)


@pytest.mark.parametrize("size", [(10**9, 10**9), (20_000, 20_000), (10**300, 1)])
def test_sizes_of_the_json_are_bounded(tmp_path, size):
    """Only some headers are read, so that a size of the json may be used for masks unchecked."""
    content = coco_content()
    write_dataset(tmp_path, content)
    content["images"][1].update(width=size[0], height=size[1])
    findings = Findings("data.json")
    check_content(content, findings, str(tmp_path))
    (problem,) = findings.problems
    assert (problem.severity.value, problem.kind, problem.image_id) == (
        "error",
        "image-too-large",
        2,
    )


def test_true_is_no_width(tmp_path):
    content = coco_content()
    write_dataset(tmp_path, content)
    content["images"][1]["width"] = True
    findings = Findings("data.json")
    after = check_content(content, findings, str(tmp_path))
    assert [p.kind for p in findings.problems] == ["no-image-size"]
    assert after["images"][1]["width"] == 20


OUTSIDE = ["../secret.png", "a/../../secret.png", "/etc/hostname", "{root}/secret.png"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("relative", [False, True])
def test_file_names_stay_in_the_image_directory(tmp_path, monkeypatch, name, relative):
    save_image(tmp_path / "secret.png")
    content = coco_content()
    write_dataset(tmp_path / "images", content)
    content["images"][1]["file_name"] = name.format(root=tmp_path)
    monkeypatch.chdir(tmp_path)
    findings = Findings("data.json")
    root = "images" if relative else str(tmp_path / "images")
    check_content(content, findings, root)
    (problem,) = findings.problems
    assert (problem.severity.value, problem.kind) == ("error", "outside-directory")
    assert problem.image_id == 2 and root in problem.fault


def test_file_names_that_are_allowed(tmp_path):
    """Absolute ones in the directory or with /, links that leave it, and names with two dots."""
    content = coco_content(4)
    write_dataset(tmp_path / "images", content)
    save_image(tmp_path / "elsewhere.png")
    names = ["a..b.png", "sub/../3.png", str(tmp_path / "images/4.png")]
    (tmp_path / "images/sub").mkdir()
    (tmp_path / "images/1.png").rename(tmp_path / "images/a..b.png")
    (tmp_path / "images/4.png").unlink()
    (tmp_path / "images/4.png").symlink_to(tmp_path / "elsewhere.png")
    for image, name in zip((content["images"][k] for k in (0, 2, 3)), names):
        image["file_name"] = name
    findings = Findings("data.json")
    check_content(content, findings, str(tmp_path / "images"))
    assert findings.problems == []
    for image in content["images"]:
        image["file_name"] = os.path.abspath(tmp_path / "images" / image["file_name"])
    check_content(content, findings, "/")
    assert findings.problems == []
