"""Outlines of masks along the edges of their pixels.

Such polygons are exact: rasterized by pycocotools, they give the same mask.
"""

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
    """(outer outlines, outlines of holes) of a bool (height, width) mask, as in `outlines`."""
    padded = np.pad(mask.astype(bool), 1)
    above, below = padded[:-1], padded[1:]
    left_above, right_above = above[:, :-1], above[:, 1:]
    left_below, right_below = below[:, :-1], below[:, 1:]
    is_corner = left_above ^ right_above ^ left_below ^ right_below
    is_saddle = (left_above == right_below) & (right_above == left_below)
    is_saddle &= left_above != right_above  # two outlines meet
    y, x = np.nonzero(is_corner | is_saddle)
    copies = 1 + is_saddle[y, x]
    y, x = np.repeat(y, copies), np.repeat(x, copies)
    vertical = _vertical_partners(y, x, right_above)
    rings, holes = [], []
    unused = np.ones(len(x), bool)
    for start in range(len(x)):
        if unused[start]:
            nodes = _walk(start, vertical)
            unused[nodes] = False
            # The first corner of a ring in row-major order begins its upper edge.
            kind = rings if padded[y[start] + 1, x[start] + 1] else holes
            kind.append(np.stack([x[nodes], y[nodes]], axis=1))
    return rings, holes


def _vertical_partners(y: np.ndarray, x: np.ndarray, right_above: np.ndarray) -> list[int]:
    """The node at the other end of each node's vertical edge.

    Nodes are in row-major order, so that the horizontal edges connect nodes 0 and 1, 2 and 3, ...
    A saddle is two nodes: that of its left edge, then that of its right edge. The edge upwards
    belongs to the side of the pixel above.
    """
    index = np.arange(len(x))
    is_second = np.zeros(len(x), bool)
    is_second[1:] = (y[1:] == y[:-1]) & (x[1:] == x[:-1])
    is_first = np.append(is_second[1:], False)
    swapped = right_above[y, x] & (is_first | is_second)
    order = np.lexsort((np.where(swapped, -index, index), y, x))
    partners = np.empty(len(x), np.int64)
    partners[order[0::2]], partners[order[1::2]] = order[1::2], order[0::2]
    return partners.tolist()


def _walk(start: int, vertical: list[int]) -> list[int]:
    """The nodes of the ring through a node, along horizontal and vertical edges in turn."""
    nodes, node = [], start
    while True:
        other = node ^ 1
        nodes += (node, other)
        node = vertical[other]
        if node == start:
            return nodes
