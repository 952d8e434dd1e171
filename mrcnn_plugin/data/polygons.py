"""Finds the polygons of a dataset that enclose nothing or leave the image, millions at a time."""

import numbers
from itertools import chain
from typing import NamedTuple

import numpy as np

MAX_OUTLINE = 2e6  # pixels; pycocotools uses about 100 bytes per pixel of an outline

_CHUNK = 200_000  # polygons per step: some hundred megabytes of coordinates
_FLAT = 1e-6  # square pixels: below it, the area may be zero up to rounding, so that points decide
_HUGE = 1e308


class PolygonFaults(NamedTuple):
    """What is wrong with each of P polygons.

    Attributes:
        degenerate: (P,) bool. It encloses nothing: it has fewer than three points or an odd number
            of values, or a value is not a finite number, or all its points are on one line.
        far: (P,) bool. A vertex is farther outside the image than the image is wide or high, or the
            outline is longer than `MAX_OUTLINE`. pycocotools needs memory by the length of an
            outline and crashes on vertices that exceed an int.
        overhang: (P,) float64, by how many pixels the outermost vertex is outside the image; 0 or
            less if none is.
    """

    degenerate: np.ndarray
    far: np.ndarray
    overhang: np.ndarray


def polygon_faults(polygons: list[list[float]], sizes: np.ndarray) -> PolygonFaults:
    """Check P polygons `[x1, y1, x2, y2, ...]`, in pixels.

    Args:
        polygons: values of a json, whatever they are.
        sizes: (P, 2), height and width of the image of each polygon.
    """
    steps = range(0, max(1, len(polygons)), _CHUNK)
    parts = [_check(polygons[i : i + _CHUNK], sizes[i : i + _CHUNK]) for i in steps]
    return PolygonFaults(*(np.concatenate(field) for field in zip(*parts)))


def degenerate_polygons(polygons: list[list[float]]) -> np.ndarray:
    """(P,) bool: which polygons enclose nothing (`PolygonFaults`), wherever their image ends."""
    return polygon_faults(polygons, np.full((len(polygons), 2), np.inf)).degenerate


def _check(polygons: list, sizes: np.ndarray) -> PolygonFaults:
    faults = PolygonFaults(
        np.ones(len(polygons), bool), np.zeros(len(polygons), bool), np.zeros(len(polygons))
    )
    usable, flat = _flatten(polygons)
    if not usable:
        return faults
    points = flat.reshape(-1, 2)
    counts = np.array([len(polygons[i]) // 2 for i in usable])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    with np.errstate(invalid="ignore", over="ignore"):  # infinity, and values near 1e308
        areas, outlines = _measure(points, starts, counts)
        limits = sizes[usable, ::-1]  # width, height
        outside = np.maximum(
            -np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts) - limits
        )
        far = (outside > limits).any(1) | (outlines > MAX_OUTLINE)
    faults.degenerate[usable] = ~(np.abs(areas) > _FLAT)  # NaN is degenerate
    faults.far[usable] = far
    faults.overhang[usable] = outside.max(1)
    for k in np.flatnonzero(~far & (np.abs(areas) <= _FLAT)):
        # The points are on one line, or the halves have opposite sense, as in a figure of 8.
        one = points[starts[k] : starts[k] + counts[k]]
        faults.degenerate[usable[k]] = _on_one_line(one)
    return faults


def _flatten(polygons: list) -> tuple[list[int], np.ndarray]:
    """Positions of the polygons that are lists of three or more points, and all their values."""
    usable = [i for i, p in enumerate(polygons) if isinstance(p, list) and _is_long_enough(p)]
    if _are_numbers(chain.from_iterable(polygons[i] for i in usable)):
        try:
            return usable, _to_array(chain.from_iterable(polygons[i] for i in usable))
        except OverflowError:  # an integer of more than 308 digits
            pass
    usable = [i for i in usable if _are_numbers(polygons[i])]
    values = chain.from_iterable(polygons[i] for i in usable)
    return usable, _to_array(min(max(value, -_HUGE), _HUGE) for value in values)


def _to_array(values) -> np.ndarray:
    return np.fromiter(values, np.float64)


def _is_long_enough(polygon: list) -> bool:
    return len(polygon) >= 6 and len(polygon) % 2 == 0


def _are_numbers(values) -> bool:
    """Whether all values are numbers. numpy would read the text "5" as one."""
    return all(issubclass(t, numbers.Real) and t is not bool for t in set(map(type, values)))


def _measure(points: np.ndarray, starts: np.ndarray, counts: np.ndarray):
    """Signed area (the shoelace formula) and length of outline for each run of points.

    Both are relative to the first point of the run. The length of an edge is the larger of its
    extents in x and y, the number of pixels that it is drawn with.
    """
    x, y = (points - np.repeat(points[starts], counts, axis=0)).T
    following = np.arange(1, len(points) + 1)
    following[starts + counts - 1] = starts
    next_x, next_y = x[following], y[following]
    areas = np.add.reduceat(x * next_y - next_x * y, starts) / 2
    edges = np.maximum(np.abs(next_x - x), np.abs(next_y - y))
    return areas, np.add.reduceat(edges, starts)


def _on_one_line(points: np.ndarray) -> bool:
    return bool(np.linalg.matrix_rank(points - points[0], tol=1e-4) < 2)
