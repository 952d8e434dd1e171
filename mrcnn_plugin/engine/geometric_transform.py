"""A geometric transform of an image and of its masks and points, by torchvision.transforms.v2.

Images and masks are transformed by torchvision. Points are transformed by the matrix of the same
view: torchvision's `KeyPoints` are pixel indices, which a flip maps to W - 1 - x, while the
coordinates of polygons are continuous and become W - x. Polygons stay polygons, so that an image of
hundreds of objects needs no mask of its size per object.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional as F


@dataclass(frozen=True)
class View:
    """What is shown of an image: resized, flipped, rotated about its centre, then cut out.

    Attributes:
        image_size: height and width of the image in pixels.
        size: height and width of the whole resized image in pixels.
        horizontal, vertical: whether it is flipped.
        angle: of the rotation, counter-clockwise, in degrees. Corners are filled.
        window: top, left, height and width of what is cut out of the resized image.
    """

    image_size: tuple[int, int]
    size: tuple[int, int]
    horizontal: bool
    vertical: bool
    angle: float
    window: tuple[int, int, int, int]

    def apply(self, pixels: Tensor, *, fill: list[float] | None = None) -> Tensor:
        """Show an image (C, H, W), bilinearly, or a mask without `fill`, by nearest pixels."""
        is_image = fill is not None
        modes = F.InterpolationMode
        if self.size != self.image_size:
            mode = modes.BILINEAR if is_image else modes.NEAREST_EXACT
            pixels = F.resize(pixels, list(self.size), interpolation=mode, antialias=is_image)
        if self.horizontal:
            pixels = F.horizontal_flip(pixels)
        if self.vertical:
            pixels = F.vertical_flip(pixels)
        if self.angle:
            mode = modes.BILINEAR if is_image else modes.NEAREST
            pixels = F.rotate(pixels, self.angle, interpolation=mode, fill=fill)
        return F.crop(pixels, *self.window)

    @cached_property
    def matrix(self) -> np.ndarray:
        """(3, 3) float64: maps continuous (x, y, 1) of the image to those of the result."""
        height, width = self.size
        resize = np.diag([width / self.image_size[1], height / self.image_size[0], 1])
        flip = np.eye(3)
        if self.horizontal:
            flip[0] = -1, 0, width
        if self.vertical:
            flip[1] = 0, -1, height
        cos, sin = np.cos(np.deg2rad(self.angle)), np.sin(np.deg2rad(self.angle))
        rotate = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])  # y points down
        top, left = self.window[:2]
        to_centre = _shift(-width / 2, -height / 2)
        back = _shift(width / 2 - left, height / 2 - top)
        return back @ rotate @ to_centre @ flip @ resize

    def move(self, points) -> np.ndarray:
        """[x, y, x, y, ...] of the image in the frame of the result, float64."""
        moved = np.reshape(points, (-1, 2)) @ self.matrix[:2, :2].T + self.matrix[:2, 2]
        return moved.reshape(-1)

    @property
    def result_size(self) -> tuple[int, int]:
        """Height and width of what is shown."""
        return self.window[2:]

    @property
    def cuts(self) -> bool:
        """Whether objects can be cut off, or boxes be no longer tight."""
        return bool(self.angle) or self.result_size != self.size


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])
