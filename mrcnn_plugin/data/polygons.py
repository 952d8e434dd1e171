"""Finds the polygons of a dataset that enclose nothing, millions at a time."""

from itertools import chain

import numpy as np

_CHUNK = 200_000  # polygons per step: some hundred megabytes of coordinates
_FLAT = 1e-6  # square pixels: below it, the area may be zero up to rounding, so that points decide


def degenerate_polygons(polygons: list[list[float]]) -> np.ndarray:
    """(P,) bool: which of P polygons `[x1, y1, x2, y2, ...]`, in pixels, enclose nothing.

    Such a polygon has fewer than three points or an odd number of values, or a value is not a
    finite number, or all its points are on one line.
    """
    parts = [_degenerate(polygons[i : i + _CHUNK]) for i in range(0, len(polygons), _CHUNK)]
    return np.concatenate([np.zeros(0, bool), *parts])


def _degenerate(polygons: list) -> np.ndarray:
    degenerate = np.ones(len(polygons), bool)
    usable = [i for i, p in enumerate(polygons) if isinstance(p, list) and _is_long_enough(p)]
    try:
        flat = np.fromiter(chain.from_iterable(polygons[i] for i in usable), np.float64)
    except (TypeError, ValueError):  # one of the values is None, a string or a list
        usable = [i for i in usable if _is_numeric(polygons[i])]
        flat = np.fromiter(chain.from_iterable(polygons[i] for i in usable), np.float64)
    if not usable:
        return degenerate
    points = flat.reshape(-1, 2)
    counts = np.array([len(polygons[i]) // 2 for i in usable])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    areas = _signed_areas(points, starts, counts)
    degenerate[usable] = ~(np.abs(areas) > _FLAT)  # NaN is degenerate
    for k in np.flatnonzero(np.abs(areas) <= _FLAT):
        # The points are on one line, or the halves have opposite sense, as in a figure of 8.
        degenerate[usable[k]] = _on_one_line(points[starts[k] : starts[k] + counts[k]])
    return degenerate


def _is_long_enough(polygon: list) -> bool:
    return len(polygon) >= 6 and len(polygon) % 2 == 0


def _is_numeric(polygon: list) -> bool:
    return all(isinstance(value, (int, float)) for value in polygon)


def _signed_areas(points: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The shoelace formula for each run of points, relative to its first point."""
    x, y = (points - np.repeat(points[starts], counts, axis=0)).T
    following = np.arange(1, len(points) + 1)
    following[starts + counts - 1] = starts
    return np.add.reduceat(x * y[following] - x[following] * y, starts) / 2


def _on_one_line(points: np.ndarray) -> bool:
    return bool(np.linalg.matrix_rank(points - points[0], tol=1e-4) < 2)
