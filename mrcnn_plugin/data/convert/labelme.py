"""Converts labelme: one json per image, shapes with a label and an optional group id."""

import base64
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

import numpy as np
import pycocotools.mask as mask_utils
from PIL import Image

from ..coco_file import DataError
from ..masks import are_drawable, to_rle
from .writer import CocoWriter, ellipse, flatten, rectangle

NOT_OBJECTS = ("__ignore__", "_background_")  # labelme's own names in labels.txt

_UNUSED = ("point", "line", "linestrip", "points")  # shapes that enclose nothing


def from_labelme(
    folder: str | Path, images: str | Path, class_names: Sequence[str] | None = None
) -> dict:
    """Convert a folder of labelme json files, and its subfolders.

    Shapes with the same label and group id are one object. Polygons, rectangles, circles and
    labelme's AI masks are converted. Points and lines enclose nothing and are skipped. As in
    labelme's own converter, regions of `__ignore__` and `_background_` are not objects.

    Args:
        folder: where the json files are.
        images: directory that `file_name`s are relative to, normally `folder`.
        class_names: the categories in order (`labels.txt`). None means those that occur, sorted.

    Returns:
        the content of a COCO json.

    Raises:
        DataError: there is no labelme json, one is damaged, or its image is missing.
    """
    folder, images = Path(folder), Path(images)
    if class_names is not None:
        class_names = [name for name in class_names if name not in NOT_OBJECTS]
    writer = CocoWriter(class_names, f"labelme files of {folder.name}")
    files = [(path, read_labelme(path)) for path in sorted(folder.rglob("*.json"))]
    files = [(path, content) for path, content in files if content is not None]
    if not files:
        raise DataError(f"there is no labelme json (with 'shapes' and 'imagePath') in {folder}")
    for path, content in files:
        _add_file(writer, path, content, images)
    return writer.content()


def read_labelme(path: Path) -> dict | None:
    """Read a labelme json; None for another kind of json."""
    try:
        content = json.loads(path.read_bytes())  # of bytes, which accepts a byte order mark
    except ValueError as error:
        raise DataError(f"{path} is not json: {error}") from error
    is_labelme = isinstance(content, dict) and {"shapes", "imagePath"} <= set(content)
    return content if is_labelme else None


def _add_file(writer: CocoWriter, path: Path, content: dict, images: Path) -> None:
    # imagePath is relative to the json and may have been written on Windows.
    file = path.parent / PureWindowsPath(content["imagePath"]).as_posix()
    name = os.path.relpath(file, images)
    if name.startswith("..") or not (images / name).exists():  # a directory is a symbolic link
        name = os.path.relpath(os.path.realpath(file.parent), os.path.realpath(images))
        name = os.path.join(name, file.name)
    image = writer.add_image(Path(name).as_posix(), file)
    objects: dict = {}
    for index, shape in enumerate(content["shapes"]):
        if shape["label"] in NOT_OBJECTS or shape.get("shape_type") in _UNUSED:
            continue
        group = shape.get("group_id")
        key = (shape["label"], "ungrouped", index) if group is None else (shape["label"], group)
        objects.setdefault(key, []).append(shape)
    for (label, *_), shapes in objects.items():
        if any(shape.get("shape_type") == "mask" for shape in shapes):
            writer.add_mask(image, label, _to_mask(shapes, image, path))
        else:
            writer.add_polygons(image, label, [_to_polygon(shape, path) for shape in shapes])


def _to_polygon(shape: dict, path: Path) -> list[float]:
    kind, points = shape.get("shape_type", "polygon"), shape["points"]
    if kind == "rectangle":
        return rectangle(*flatten(points[:2]))
    if kind == "circle":  # its centre and a point on it
        (cx, cy), (px, py) = points
        radius = float(np.hypot(px - cx, py - cy))
        return ellipse(cx, cy, radius, radius)
    if kind in ("polygon", "oriented_rectangle"):
        return flatten(points)
    raise DataError(
        f"{path}: a shape has the type '{kind}'. Expected polygon, rectangle, circle or mask"
    )


def _to_mask(shapes: list[dict], image: dict, path: Path) -> np.ndarray:
    """(height, width) bool: the union of shapes."""
    height, width = image["height"], image["width"]
    union = np.zeros((height, width), bool)
    for shape in shapes:
        if shape.get("shape_type") == "mask":
            (x, y), *_ = np.rint(shape["points"]).astype(int).tolist()
            opened = Image.open(io.BytesIO(base64.b64decode(shape["mask"])))
            part = np.asarray(opened).astype(bool)[: height - y, : width - x]
            union[y : y + part.shape[0], x : x + part.shape[1]] |= part
        else:
            polygons = [_to_polygon(shape, path)]
            if not are_drawable(polygons, height, width):
                raise DataError(
                    f"{path}: a shape of '{shape['label']}' has fewer than 3 points, or one far "
                    f"outside the {width} x {height} image. Correct it in labelme"
                )
            union |= mask_utils.decode(to_rle(polygons, height, width)).astype(bool)
    return union
