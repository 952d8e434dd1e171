"""Builds a COCO json image by image; converts shapes of annotation tools to polygons."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils

from ..coco_file import DataError
from ..image_file import ImageFault, displayed_size, read_header
from ..masks import annotation_area, are_drawable

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

_CIRCLE_POINTS = 64


class CocoWriter:
    """Collects images and objects and numbers them from 1.

    Args:
        class_names: the categories in order. None means those that occur, sorted by name.
        description: stored in `info`.
    """

    def __init__(self, class_names: Sequence[str] | None, description: str):
        self._class_names = None if class_names is None else list(class_names)
        self._description = description
        self._images, self._annotations = [], []

    def add_image(self, file_name: str, path: Path) -> dict:
        """Add an image with its size after the EXIF rotation; returns its record.

        Raises:
            DataError: the file is missing or cannot be used as an image.
        """
        try:
            width, height = displayed_size(read_header(path))
        except ImageFault as error:
            raise DataError(f"{path}: {error}") from error
        number = len(self._images) + 1
        image = {"id": number, "file_name": file_name, "width": width, "height": height}
        self._images.append(image)
        return image

    def add_polygons(self, image: dict, class_name: str, polygons: list[list[float]]) -> None:
        """Add an object whose visible parts are polygons `[x1, y1, x2, y2, ...]` in pixels.

        A polygon of fewer than three points is kept, so that the check reports it.
        """
        polygons = [polygon for polygon in polygons if polygon]
        if not polygons:
            return
        points = np.concatenate([np.reshape(p, (-1, 2)) for p in polygons])
        (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
        self._add(image, class_name, [x1, y1, x2 - x1, y2 - y1], polygons)

    def add_mask(self, image: dict, class_name: str, mask: np.ndarray) -> None:
        """Add an object by its (height, width) bool mask, which must not be empty, as RLE."""
        rle = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
        box = mask_utils.toBbox(rle).tolist()
        segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
        self._add(image, class_name, box, segmentation)

    def _add(self, image, class_name, box, segmentation) -> None:
        annotation = {
            "id": len(self._annotations) + 1,
            "image_id": image["id"],
            "category_id": class_name,  # replaced by its number in content()
            "iscrowd": 0,
            "bbox": box,
            "segmentation": segmentation,
        }
        size = image["height"], image["width"]
        usable = isinstance(segmentation, dict) or are_drawable(segmentation, *size)
        annotation["area"] = annotation_area(annotation, *size) if usable else 0.0
        self._annotations.append(annotation)

    def content(self) -> dict:
        """The COCO json.

        Raises:
            DataError: an object has a class that is not in the list, or there is no object.
        """
        found = sorted({annotation["category_id"] for annotation in self._annotations})
        if not found:
            raise DataError(f"no object was found in {self._description}")
        names = found if self._class_names is None else self._class_names
        unknown = [name for name in found if name not in names]
        if unknown:
            raise DataError(
                f"{self._description} has objects of the classes {', '.join(unknown)}, which are "
                f"not in the list of classes: {', '.join(names)}"
            )
        numbers = {name: number for number, name in enumerate(names, start=1)}
        return {
            "info": {"description": self._description},
            "licenses": [],
            "images": self._images,
            "annotations": [
                {**annotation, "category_id": numbers[annotation["category_id"]]}
                for annotation in self._annotations
            ],
            "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        }


def rectangle(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """The polygon of a rectangle between two opposite corners, in any order."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def ellipse(cx: float, cy: float, rx: float, ry: float, theta: float = 0.0) -> list[float]:
    """A polygon of 64 corners on an ellipse with radii rx, ry, rotated by `theta` radians."""
    angles = np.arange(_CIRCLE_POINTS) * (2 * math.pi / _CIRCLE_POINTS)
    x, y = rx * np.cos(angles), ry * np.sin(angles)
    cos, sin = math.cos(theta), math.sin(theta)
    return np.stack([cx + x * cos - y * sin, cy + x * sin + y * cos], 1).ravel().tolist()


def flatten(points: Iterable[Sequence[float]]) -> list[float]:
    """[(x, y), ...] -> [x, y, ...]."""
    return [float(value) for point in points for value in point]


def find_images(folder: Path) -> dict[str, Path]:
    """Image files of a folder by their name without suffix, sorted.

    Raises:
        DataError: the folder is missing, or two of its images differ only in the suffix.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a directory")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem in found:
            raise DataError(f"{path} and {found[path.stem]} differ only in the suffix")
        found[path.stem] = path
    return found
