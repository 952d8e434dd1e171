"""Outlines of masks along the edges of their pixels.

Such polygons are exact: rasterized by pycocotools, they give the same mask.
"""

import cv2
import numpy as np


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Polygons whose union is a mask.

    A mask with a hole is cut at the upper edge of the hole into parts without one, so that polygons
    suffice. Pixels that touch at a corner only are in different polygons.

    Args:
        mask: bool (height, width).

    Returns:
        int64 (P, 2) each, x and y of the corners of pixels; pixel (0, 0) covers [0, 1] x [0, 1].
    """
    rings, holes = trace(mask)
    if not holes:
        return rings
    row = max(ring[0, 1] for ring in holes)
    lower = [ring + np.array([0, row]) for ring in outlines(mask[row:])]
    return outlines(mask[:row]) + lower


def trace(mask: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(outer outlines, outlines of holes) of a bool (height, width) mask, as in `outlines`.

    Each begins at its upper left corner and continues to the right.
    """
    background = np.pad(~mask.astype(bool), 1, constant_values=True).astype(np.uint8)
    # OpenCV's contours connect the centres of the outermost pixels. With 2 x 2 pixels per pixel,
    # each corner of an outline has a contour point in the pixel to its upper left or lower right.
    # The regions of the background, not of the mask, are those that connect at corners.
    doubled = background.repeat(2, axis=0).repeat(2, axis=1)
    contours, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings, holes = [], []
    for contour, (*_, parent) in zip(contours, tree[0]):
        ring = (contour[:, 0].astype(np.int64) + 1) // 2 - 1
        ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
        if len(ring) and ring.min() >= 0:  # else the frame around the mask
            first = np.lexsort(ring.T)[0]
            ring = np.roll(ring, -first, axis=0)
            if ring[1, 1] != ring[0, 1]:  # it continues downwards
                ring = np.roll(ring[::-1], 1, axis=0)
            (holes if parent < 0 else rings).append(ring)
    return rings, holes
