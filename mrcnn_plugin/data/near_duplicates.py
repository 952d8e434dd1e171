"""Finds images that show nearly the same, by a difference hash of 256 bits.

An image is reduced to 16 rows of 17 gray pixels. A bit says whether a pixel is brighter than its
left neighbour, after a smooth surface (quadratic, such as a gradient or vignette) is subtracted:
what remains is content. Otherwise, all images of one microscope look the same. Images of which
nearly nothing remains, such as blank ones, are never similar to others.

Of 121 images, different ones differ in 77 bits or more. Copies that are compressed again, half
as large or cropped by 1% at each side differ in 36 or less, and in 40 or less if they are 30%
brighter (`tests/data/test_near_duplicates.py`). Mirrored and rotated copies are not found.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .image_file import THUMBNAIL, ImageFault, read_header

BITS = 256
THRESHOLD = 40  # bits that may differ

_PLAIN = 4.0  # gray levels, standard deviation of the content
_ROWS = 512  # of hashes that are compared at a time
_THREADS = 4  # images that are decoded at a time


def _smooth_surfaces() -> np.ndarray:
    """(pixels, 6): an orthonormal basis of the quadratic surfaces on a thumbnail."""
    y, x = np.mgrid[-1 : 1 : THUMBNAIL[0] * 1j, -1 : 1 : THUMBNAIL[1] * 1j].reshape(2, -1)
    return np.linalg.qr(np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1))[0]


_SURFACES = _smooth_surfaces()


def difference_hashes(thumbnails: Sequence[np.ndarray]) -> np.ndarray:
    """The hashes of N thumbnails (`Header.thumbnail`).

    Returns:
        (N, 256) float32: 1 and -1 for bits; 0 everywhere for an image without content.
    """
    hashes = np.zeros((len(thumbnails), BITS), np.float32)
    for start in range(0, len(thumbnails), _ROWS):
        pixels = np.stack(thumbnails[start : start + _ROWS]).reshape(-1, len(_SURFACES))
        content = pixels - (pixels @ _SURFACES) @ _SURFACES.T
        steps = np.diff(content.reshape(-1, *THUMBNAIL), axis=2).reshape(-1, BITS)
        is_plain = content.std(axis=1, keepdims=True) < _PLAIN
        hashes[start : start + _ROWS] = np.where(is_plain, 0, np.where(steps > 0, 1, -1))
    return hashes


def nearest_pairs(left: np.ndarray, right: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(index of left, of right, bits that differ) for each of `left` with a near duplicate.

    Args:
        left, right: as `difference_hashes` returns them.
    """
    for start in range(0, len(left) if len(right) else 0, _ROWS):
        equal = left[start : start + _ROWS] @ right.T  # equal bits minus different ones
        nearest = equal.argmax(axis=1)
        bits = (BITS - equal[np.arange(len(nearest)), nearest]) / 2
        for row in np.flatnonzero(bits <= THRESHOLD).tolist():
            yield start + row, int(nearest[row]), int(bits[row])


def join_near_duplicates(
    hashes: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Give images the same label if they are near duplicates, directly or through others.

    Args:
        hashes: of N images, as `difference_hashes` returns them.
        labels: (N,) integers; images with the same label are joined already.

    Returns:
        the new labels, each the smallest one of those that were joined, and (index, index, bits
        that differ) for each pair that joined two labels, at most N - 1 of them.
    """
    labels, pairs = labels.copy(), []
    for start in range(0, len(hashes), _ROWS):
        equal = hashes[start : start + _ROWS] @ hashes.T  # equal bits minus different ones
        is_near = equal >= BITS - 2 * THRESHOLD
        for row in np.flatnonzero(is_near.sum(axis=1) > 1).tolist():  # 1 is the image itself
            near = np.flatnonzero(is_near[row])
            joined, first = np.unique(labels[near], return_index=True)
            for other in near[first[joined != labels[start + row]]].tolist():
                pairs.append((start + row, other, int(BITS - equal[row, other]) // 2))
            labels[np.isin(labels, joined)] = joined[0]
    return labels, pairs


def read_thumbnails(paths: Sequence[str], thumbnails: dict[str, np.ndarray]) -> list[str]:
    """Read the thumbnails that are missing in `thumbnails` into it.

    Returns:
        the paths of files that cannot be read.
    """

    def read(path: str) -> np.ndarray | None:
        try:
            return read_header(path, decode=True).thumbnail
        except ImageFault:
            return None

    wanted = [path for path in dict.fromkeys(paths) if path not in thumbnails]
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        found = dict(zip(wanted, pool.map(read, wanted)))
    thumbnails |= {path: thumbnail for path, thumbnail in found.items() if thumbnail is not None}
    return [path for path, thumbnail in found.items() if thumbnail is None]
