"""Slow, obvious definitions of what the package computes, sharing no code with it."""

import math

import numpy as np


def bilinear(image, y, x):
    """The bilinear value P(x, y) of four neighbours Q, or None for a point outside the map.

    image: (H, W); its pixel (0, 0) has its centre at y = x = 0 here. The map reaches one pixel
    beyond its outermost centres and is constant there.
    """
    height, width = image.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return None
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    y1, x1 = min(math.floor(y), max(height - 2, 0)), min(math.floor(x), max(width - 2, 0))
    y2, x2 = min(y1 + 1, height - 1), min(x1 + 1, width - 1)
    if y1 == y2:  # a map one pixel high
        y2, y = y1 + 1, y1
    if x1 == x2:
        x2, x = x1 + 1, x1
    q = lambda j, i: float(image[min(j, height - 1), min(i, width - 1)])  # noqa: E731
    upper = (x2 - x) / (x2 - x1) * q(y1, x1) + (x - x1) / (x2 - x1) * q(y1, x2)
    lower = (x2 - x) / (x2 - x1) * q(y2, x1) + (x - x1) / (x2 - x1) * q(y2, x2)
    return (y2 - y) / (y2 - y1) * upper + (y - y1) / (y2 - y1) * lower


def roi_edges(low, high, scale, aligned):
    """One axis of a box in input pixels -> its start and size on the map, in pixels."""
    if aligned:
        return low * scale - 0.5, high * scale - low * scale
    return low * scale, max(high * scale - low * scale, 1.0)


def bin_value(image, ys, xs, mode):
    """The average or maximum of the samples at ys x xs. Those outside the map count as zero."""
    samples = [bilinear(image, y, x) for y in ys for x in xs]
    values = [0.0 if s is None else s for s in samples]
    if not values:
        return 0.0
    return sum(values) / len(values) if mode == "avg" else max(values)


def roi_align(
    features,
    rois,
    output_size,
    spatial_scale=1.0,
    sampling_ratio=0,
    aligned=True,
    mode="avg",
    bin_stride=1,
):
    """(N, C, H, W) and (R, 5) arrays -> (R, C, h, w) float64."""
    rows, columns = range(0, output_size[0], bin_stride), range(0, output_size[1], bin_stride)
    out = np.zeros((len(rois), features.shape[1], len(rows), len(columns)))
    for r, (n, *box) in enumerate(np.asarray(rois, dtype=np.float64).tolist()):
        centres = []
        for axis, kept in ((1, rows), (0, columns)):
            start, size = roi_edges(box[axis], box[axis + 2], spatial_scale, aligned)
            bins = output_size[0] if axis == 1 else output_size[1]
            grid = sampling_ratio or max(math.ceil(size / bins), 0)
            step = size / bins
            centres.append(
                [[start + b * step + (i + 0.5) * step / grid for i in range(grid)] for b in kept]
            )
        for c in range(features.shape[1]):
            for p, ys in enumerate(centres[0]):
                for q, xs in enumerate(centres[1]):
                    out[r, c, p, q] = bin_value(features[int(n), c], ys, xs, mode)
    return out


def axis_matrix(extent, low, high, bins, spatial_scale, sampling_ratio, aligned=True):
    """(bins, extent): the share of each pixel in the average over each bin of one axis.

    For boxes of many samples: average RoIAlign is `axis_matrix(y) @ image @ axis_matrix(x).T`.
    """
    start, size = roi_edges(low, high, spatial_scale, aligned)
    grid = sampling_ratio or math.ceil(size / bins)
    matrix = np.zeros((bins, extent))
    for b in range(bins):
        at = start + b * (size / bins) + (np.arange(grid) + 0.5) * (size / bins) / grid
        at = np.clip(at[(at >= -1) & (at <= extent)], 0, extent - 1)
        below = np.minimum(np.floor(at).astype(int), max(extent - 2, 0))
        np.add.at(matrix[b], below, (1 - (at - below)) / grid)
        np.add.at(matrix[b], np.minimum(below + 1, extent - 1), (at - below) / grid)
    return matrix


def axis_samples(low, high, bins, spatial_scale, sampling_ratio, aligned):
    """(bins, grid): the positions of all samples of one axis, from the centre of pixel 0."""
    start, size = roi_edges(low, high, spatial_scale, aligned)
    grid = sampling_ratio or max(math.ceil(size / bins), 0)
    step = size / bins
    return start + np.arange(bins)[:, None] * step + (np.arange(grid) + 0.5) * step / max(grid, 1)


def taps(at, extent):
    """(n,) positions on the map -> two neighbouring pixels (2, n) and their weights (2, n)."""
    at = np.clip(at, 0, extent - 1)
    low = np.minimum(np.floor(at).astype(int), max(extent - 2, 0))
    return np.stack([low, np.minimum(low + 1, extent - 1)]), np.stack([1 - (at - low), at - low])


def sample_values(maps, ys, xs):
    """`bilinear` of (C, H, W) at all of ys x xs, which are on the map -> (C, len(ys), len(xs)).

    A pixel of weight 0 is not read.
    """
    (rows, row_weights), (columns, column_weights) = (
        taps(ys, maps.shape[1]),
        taps(xs, maps.shape[2]),
    )
    out = np.zeros((len(maps), len(ys), len(xs)))
    for j, v in zip(rows, row_weights):
        for i, w in zip(columns, column_weights):
            weight = v[:, None] * w
            out += np.where(weight == 0, 0, weight * np.where(weight == 0, 0, maps[:, j][:, :, i]))
    return out
