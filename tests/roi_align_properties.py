"""Drawn calls of the RoIAlign ops, and what tests/oracles.py expects of them.

Coordinates of float32 RoIs are rounded, so a sample that is within `Axis.error` of the border of
the map, and a grid whose size is that close to a whole number, have two right answers. Such RoIs
are only required to be finite and bounded. On an `exact` call nothing is rounded: boxes are
multiples of 1/8, and numbers of bins, samples and the scale are powers of two.
"""

from dataclasses import dataclass, field

import numpy as np
import oracles
import torch
from hypothesis import strategies as st
from roi_align_cases import MODES

ROI_DTYPES = (torch.float32, torch.float64)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = (
    *("contiguous", "channels last", "sliced", "permuted", "stepped"),  # these hold any values
    *("expanded", "overlapping"),
)
MAPS = ("normal", "few values", "constant", "negative", "nan", "inf", "-inf")
BOXES = (
    *("inside", "across", "off the map", "on the edges", "tiny", "large", "huge", "giant"),
    *("reversed", "reversed x", "no area", "no width", "nan", "inf", "-inf"),
)
MOST_SAMPLES = {"avg": 2**53, "max": 2**15 - 1}
ENUMERATED = 1 << 14  # samples per bin and axis: above, a result is only required to be bounded


@dataclass
class Call:
    """One call of an op. `maps` has one tensor per level."""

    mode: str
    maps: list[torch.Tensor] = field(repr=False)
    rois: torch.Tensor
    levels: torch.Tensor
    scales: list[float]
    size: tuple[int, int]
    sampling_ratio: int
    aligned: bool
    bin_stride: int
    exact: bool
    grad_layout: str
    seed: int
    boxes: list[str]
    layouts: list

    @property
    def options(self):
        return self.sampling_ratio, self.aligned, MODES.index(self.mode), self.bin_stride


# ---- Drawing a call ------------------------------------------------------------------------------


def empty_in_layout(shape, layout, dtype, rng):
    """A tensor of this shape and layout, to be filled."""
    n, c, h, w = shape
    if layout == "channels last":
        return torch.empty(shape, dtype=dtype).to(memory_format=torch.channels_last)
    if layout == "sliced":
        return torch.empty((n + 1, c + 2, h + 3, w + 1), dtype=dtype)[1:, 1 : c + 1, 2 : h + 2, :w]
    if layout == "permuted":
        order = rng.permutation(4)
        stored = torch.empty([shape[d] for d in order], dtype=dtype)
        return stored.permute(*np.argsort(order).tolist())
    if layout == "stepped":
        return torch.empty([2 * size for size in shape], dtype=dtype)[::2, 1::2, ::2, 1::2]
    return torch.empty(shape, dtype=dtype)


def fill(values, layout, dtype, rng):
    """Float64 `values` as a tensor, or some of them if the layout's elements share memory."""
    tensor = torch.from_numpy(values).to(dtype)
    if layout == "expanded":
        kept = [slice(0, 1) if rng.random() < 0.5 else slice(None) for _ in range(4)]
        return tensor[tuple(kept)].clone().expand(values.shape)
    if layout == "overlapping" and values.size:
        strides = [int(rng.integers(0, 4)) for _ in range(4)]
        needed = 1 + sum((size - 1) * stride for size, stride in zip(values.shape, strides))
        return tensor.flatten().repeat(1 + needed // values.size).as_strided(values.shape, strides)
    return empty_in_layout(values.shape, layout, dtype, rng).copy_(tensor)


def make_map(shape, kind, rng):
    if kind in ("few values", "constant"):
        return rng.integers(-2, 3, shape if kind == "few values" else (1,) * 4) * np.ones(shape)
    values = rng.standard_normal(shape)
    if kind == "negative":
        return -1 - np.abs(values)
    if kind != "normal" and values.size:
        values.flat[rng.integers(values.size)] = float(kind)
    return values


def make_box(kind, height, width, exact, rng):
    """x1, y1, x2, y2 in pixels of the map."""
    extent = np.array([width, height, width, height])
    box = np.sort(rng.uniform(0, 1, (2, 2)), axis=0).flatten() * extent
    if kind == "across":
        box = (box - extent / 2) * 2.5 + extent / 2
    elif kind == "off the map":
        box += rng.choice([-3.0, 3.0], 4)[[0, 1, 0, 1]] * extent
    elif kind == "on the edges":
        marks = [np.array([-1, -0.5, 0, 0.5, e - 1, e - 0.5, e, e + 0.5, e + 1]) for e in extent]
        box = np.array([rng.choice(m) for m in marks])
    elif kind == "tiny":
        box[2:] = box[:2] + 10.0 ** rng.uniform(-6, -1, 2)
    elif kind in ("large", "huge", "giant"):
        low, high = {"large": (1, 3), "huge": (3, 7), "giant": (7, 38.5)}[kind]
        box += 10.0 ** rng.uniform(low, high, 4) * np.array([-1, -1, 1, 1]) * (rng.random(4) < 0.7)
    elif kind == "no area":
        box[2:] = box[:2]
    elif kind in ("no width", "reversed x"):
        box[2] = box[0] - (kind == "reversed x") * rng.uniform(0, 5)
    elif kind == "reversed":
        box = box[[2, 3, 0, 1]]
    if exact and np.abs(box).max() < 1e3:
        box = np.round(box * 8) / 8
    if kind in ("nan", "inf", "-inf"):
        box[rng.integers(4)] = float(kind)
    return box


@st.composite
def calls(draw, mode, pyramid):
    rng = np.random.default_rng(seed := draw(st.integers(0, 2**32 - 1)))
    exact = draw(st.booleans())
    sizes = st.sampled_from((1, 2, 4) if exact else (1, 2, 3, 5))
    batch, channels = draw(st.integers(1, 3)), draw(st.sampled_from((1, 2, 3, 4, 5, 9, 33, 0)))
    extents = st.sampled_from((5, 1, 2, 3, 4, 7, 8, 9, 17, 0))
    dtype, roi_dtype = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(ROI_DTYPES))
    kinds = MAPS if exact else MAPS[:4]  # only there is it certain which weights are zero
    maps, layouts = [], []
    for _ in range(draw(st.integers(1, 3)) if pyramid else 1):
        shape = (batch, channels, draw(extents), draw(extents))
        kind, layout = draw(st.sampled_from(kinds)), draw(st.sampled_from(LAYOUTS))
        maps.append(fill(make_map(shape, kind, rng), layout, dtype, rng))
        layouts.append((kind, layout, shape, dtype))
    some = (1.0, 0.5, 0.25, 2.0) if exact else (1.0, 0.5, 0.3, 1 / 16, 2.0, 1.7)
    scales = [draw(st.sampled_from(some)) for _ in maps]
    boxes = draw(st.lists(st.sampled_from(BOXES), max_size=5))
    levels = torch.from_numpy(rng.integers(0, len(maps), len(boxes)))
    rois = [
        [rng.integers(batch), *make_box(kind, *maps[i].shape[2:], exact, rng) / scales[i]]
        for kind, i in zip(boxes, levels.tolist())
    ]
    with np.errstate(over="ignore"):
        rois = torch.tensor(np.array(rois).reshape(-1, 5)).to(roi_dtype)
    return Call(
        mode, maps, rois, levels, scales, (draw(sizes), draw(sizes)),
        draw(st.sampled_from((0, 2, 1, 4) if exact else (0, 2, 1, 3, 6))),
        draw(st.booleans()), draw(st.sampled_from((1, 2, 3, 100))), exact,
        draw(st.sampled_from(LAYOUTS[:5])), seed, boxes, layouts,
    )  # fmt: skip


# ---- The expected result -------------------------------------------------------------------------


class Axis:
    """One axis of one RoI: samples per bin, and how far rounding may have moved them."""

    def __init__(self, call, roi, axis, extent, scale, double):
        low, high = roi[2 - axis], roi[4 - axis]
        self.extent, self.bins = extent, call.size[axis]
        self.kept = range(0, self.bins, call.bin_stride)
        self.error, self.certain, self.positions = 0.0, True, None
        limit = np.finfo(np.float64 if double else np.float32).max / 8
        if not (abs(low * scale) < limit and abs(high * scale) < limit):
            self.positions = np.zeros((self.bins, 0))  # not finite: no samples
            self.certain = not np.isfinite([low, high]).all()
            return
        start, size = oracles.roi_edges(low, high, scale, call.aligned)
        grid = call.sampling_ratio or size / self.bins
        exact = call.exact and abs(start) + abs(size) < 1e3
        exact = exact and np.log2(max(np.ceil(grid), 1)) % 1 == 0
        if not exact:
            largest = max(abs(start), abs(start + size), 1) + self.bins
            self.error = 16 * largest * (2.0**-52 if double else 2.0**-24)
        whole = abs(grid - round(grid)) <= self.error and low != high
        clamped = not call.aligned and high * scale - low * scale < 1 - self.error
        if self.error and not call.sampling_ratio and whole and not clamped:
            self.certain = False
        elif grid > MOST_SAMPLES[call.mode]:
            self.positions = np.zeros((self.bins, 0))
            self.certain = grid > 1.01 * MOST_SAMPLES[call.mode]
        elif grid > ENUMERATED or self.error > 0.01:
            self.certain = False
        else:
            options = scale, call.sampling_ratio, call.aligned
            self.positions = oracles.axis_samples(low, high, self.bins, *options)
            distance = np.minimum(abs(self.positions + 1), abs(self.positions - extent))
            near = distance <= self.error if self.error else np.zeros(0)
            self.certain = not near.any()

    def samples(self, bin):
        """The numbers and positions of the samples of a bin that are on the map, and its grid."""
        at = self.positions[bin]
        on_map = (at >= -1) & (at <= self.extent) & (self.extent > 0)
        return np.flatnonzero(on_map), at[on_map], len(at)


def pooled(maps, ys, xs, mode):
    """One bin of (C, H, W) -> its values (C,), and the numbers of its samples, as the op counts."""
    (y_numbers, y_at, y_grid), (x_numbers, x_at, x_grid) = ys, xs
    if not len(y_at) or not len(x_at):
        return np.zeros(len(maps)), np.full(len(maps), -1)
    values = oracles.sample_values(maps, y_at, x_at).reshape(len(maps), len(y_at) * len(x_at))
    if mode == "avg":
        return values.sum(1) / (y_grid * x_grid), None
    numbers = (y_numbers[:, None] << 15 | x_numbers).flatten()[values.argmax(1)]
    best = values.max(1)
    outside = values.shape[1] < y_grid * x_grid
    cut = outside & (best < 0)
    return np.where(cut, 0, best), np.where(cut, -1, numbers)


def add_gradient(grad_map, ys, xs, grad, numbers, mode):
    """Add the gradient of one bin, grad (C,), to (C, H, W)."""
    (y_numbers, y_at, y_grid), (x_numbers, x_at, x_grid) = ys, xs
    if not len(y_at) or not len(x_at):
        return
    rows = np.zeros((len(y_at), grad_map.shape[1]))
    columns = np.zeros((len(x_at), grad_map.shape[2]))
    for matrix, at in ((rows, y_at), (columns, x_at)):
        for pixel, weight in zip(*oracles.taps(at, matrix.shape[1])):
            np.add.at(matrix, (np.arange(len(at)), pixel), weight)
    if mode == "avg":
        share = np.outer(rows.sum(0), columns.sum(0)) / (y_grid * x_grid)
        grad_map += grad[:, None, None] * share
        return
    for c in np.flatnonzero(numbers >= 0):
        y, x = y_numbers == numbers[c] >> 15, x_numbers == numbers[c] & 2**15 - 1
        assert y.sum() == x.sum() == 1, f"argmax {numbers[c]} is no sample on the map"
        grad_map[c] += grad[c] * np.outer(rows[y][0], columns[x][0])
