"""Facts about all polygons of a data set at once: extent, and whether they enclose anything."""

from itertools import chain
from typing import NamedTuple

import numpy as np

_CHUNK = 200_000  # polygons at a time: some hundred megabytes of coordinates
_FLAT = 1e-6  # square pixels: below it a polygon's area may be zero and is looked at again


class PolygonFacts(NamedTuple):
    """Of P polygons: `extents` (P, 4) float64 x1, y1, x2, y2 in pixels, `degenerate` (P,) bool."""

    extents: np.ndarray
    degenerate: np.ndarray


def polygon_facts(polygons: list[list[float]]) -> PolygonFacts:
    """Look at polygons `[x1, y1, x2, y2, ...]`, in pixels.

    A polygon is degenerate when it has fewer than three points or an odd number of values, when a
    value is not a finite number, or when all its points are on one line. Its extent is then NaN.
    """
    facts = [_facts(polygons[i : i + _CHUNK]) for i in range(0, len(polygons), _CHUNK)]
    if not facts:
        return PolygonFacts(np.zeros((0, 4)), np.zeros(0, bool))
    return PolygonFacts(*(np.concatenate(parts) for parts in zip(*facts)))


def _facts(polygons: list) -> PolygonFacts:
    extents = np.full((len(polygons), 4), np.nan)
    degenerate = np.ones(len(polygons), bool)
    usable = [i for i, p in enumerate(polygons) if isinstance(p, list) and _is_long_enough(p)]
    try:
        flat = np.fromiter(chain.from_iterable(polygons[i] for i in usable), np.float64)
    except (TypeError, ValueError):  # somewhere stands None, a string, a list
        usable = [i for i in usable if _is_numeric(polygons[i])]
        flat = np.fromiter(chain.from_iterable(polygons[i] for i in usable), np.float64)
    if not usable:
        return PolygonFacts(extents, degenerate)
    points = flat.reshape(-1, 2)
    counts = np.array([len(polygons[i]) // 2 for i in usable])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    areas = _signed_areas(points, starts, counts)
    for k, i in enumerate(usable):
        if abs(areas[k]) > _FLAT:
            degenerate[i] = False
        elif np.isfinite(areas[k]):  # on one line, or halves of opposite sense (a figure of 8)
            degenerate[i] = _on_one_line(points[starts[k] : starts[k] + counts[k]])
    extents[usable] = np.concatenate([low, high], axis=1)
    extents[degenerate] = np.nan
    return PolygonFacts(extents, degenerate)


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
