"""Overlapping tiles that cover an image, the same for training data and for prediction."""

from typing import NamedTuple


class Tile(NamedTuple):
    """A part of an image, in pixels."""

    left: int
    top: int
    right: int
    bottom: int

    def shared(self, other: "Tile") -> "Tile":
        """What both cover; empty if `right <= left` or `bottom <= top`."""
        lower = map(max, self[:2], other[:2])
        return Tile(*lower, *map(min, self[2:], other[2:]))

    @property
    def is_empty(self) -> bool:
        return self.right <= self.left or self.bottom <= self.top

    @property
    def area(self) -> int:
        """Number of pixels, if it is not empty."""
        return (self.right - self.left) * (self.bottom - self.top)

    def slices(self, array: "Tile") -> tuple[slice, slice]:
        """The rows and columns of this part in an array that covers the pixels of `array`."""
        rows = slice(self.top - array.top, self.bottom - array.top)
        return rows, slice(self.left - array.left, self.right - array.left)


def cut_tiles(height: int, width: int, size: int, overlap: int) -> list[Tile]:
    """Tiles of one size, row by row, that cover an image and overlap by at least `overlap`.

    The last ones of a row or column end at the border, so they overlap by more. An image smaller
    than a tile along an axis has one tile of its size there.

    Raises:
        ValueError: the overlap is not between 1 and the size of a tile.
    """
    if not 1 <= overlap < size:
        raise ValueError(
            f"tiles of {size} pixels overlap by {overlap}; expected from 1 to {size - 1}"
        )
    rows, columns = (_starts(length, size, overlap) for length in (height, width))
    tile_height, tile_width = min(size, height), min(size, width)
    return [Tile(x, y, x + tile_width, y + tile_height) for y in rows for x in columns]


def _starts(length: int, size: int, overlap: int) -> list[int]:
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]
