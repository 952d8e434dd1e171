"""A small seeded dataset of drawn shapes that hide one another, with masks, as COCO json."""

import json
from pathlib import Path

import cv2
import numpy as np

from ..checkpoint.files import write_atomically
from .convert.writer import CocoWriter

SHAPE_CLASSES = ("circle", "square", "triangle")

_MIN_VISIBLE = 0.35  # shapes that would hide more of another one are not drawn


def make_shapes(json_file: str | Path, num_images: int, *, seed: int, size: int = 128) -> None:
    """Draw `num_images` images of up to 6 shapes next to `json_file`, and write that file last.

    The same arguments give the same images. A later shape hides parts of earlier ones; masks
    (COCO RLE) and boxes cover the visible part. Colours are independent of the class.

    Args:
        json_file: COCO json to write; its directory is created if needed and receives the PNGs.
        num_images: number of images.
        seed: seed of the random generator.
        size: side of the square images in pixels.
    """
    json_file = Path(json_file)
    json_file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    writer = CocoWriter(SHAPE_CLASSES, f"drawn shapes, seed {seed}")
    for number in range(1, num_images + 1):
        image, instances = _draw_image(rng, size)
        path = json_file.with_name(f"{number:05d}.png")
        if not cv2.imwrite(str(path), image):
            raise OSError(f"{path} could not be written")
        record = writer.add_image(path.name, path)
        for class_index, mask in instances:
            writer.add_mask(record, SHAPE_CLASSES[class_index], mask)
    # Written last and whole: a drawing that was interrupted is repeated.
    content = json.dumps(writer.content()).encode()
    write_atomically(json_file, lambda file: file.write(content))


def _draw_image(rng: np.random.Generator, size: int):
    """One (size, size, 3) uint8 image and its [(class index, (size, size) bool mask)]."""
    image = _background(rng, size)
    instances = []
    for _ in range(rng.integers(2, 7)):
        class_index = int(rng.integers(len(SHAPE_CLASSES)))
        outline = _outline(SHAPE_CLASSES[class_index], rng, size)
        mask = cv2.fillPoly(np.zeros((size, size), np.uint8), [outline], 1).astype(bool)
        hidden = [(before & ~mask).sum() < _MIN_VISIBLE * full for _, before, full in instances]
        if any(hidden):
            continue
        image[mask] = _color(rng) + rng.normal(0, 8, (mask.sum(), 3))
        instances = [(c, before & ~mask, full) for c, before, full in instances]
        instances.append((class_index, mask, mask.sum()))
    return image.clip(0, 255).astype(np.uint8), [(c, mask) for c, mask, _ in instances]


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A smooth gray-brown texture with noise, float64."""
    coarse = rng.uniform(60, 160, (5, 5, 1)) + rng.normal(0, 12, (5, 5, 3))
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return smooth + rng.normal(0, 8, (size, size, 3))


def _outline(name: str, rng: np.random.Generator, size: int) -> np.ndarray:
    """(P, 2) int32 corners (x, y) of a shape of random size, place and rotation."""
    radius = rng.uniform(0.13, 0.30) * size
    corners = {"circle": 40, "square": 4, "triangle": 3}[name]
    angles = rng.uniform(0, 2 * np.pi) + np.arange(corners) * 2 * np.pi / corners
    center = rng.uniform(radius, size - radius, 2)
    return np.rint(center + radius * np.stack([np.cos(angles), np.sin(angles)], 1)).astype(np.int32)


def _color(rng: np.random.Generator) -> np.ndarray:
    """A saturated BGR colour that stands out from the background, (3,) float64."""
    hsv = rng.integers((0, 150, 150), (180, 256, 256)).astype(np.uint8)[None, None]
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(float)
