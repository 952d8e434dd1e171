"""Property tests: drawn calls of the RoIAlign ops equal a float64 oracle, forward and backward.

Every run draws the same calls. MRCNN_PROPERTY_CASES sets their number per test (default 800).
"""

import os
from collections import Counter

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis", reason="pip install hypothesis, or make setup")

import oracles
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from roi_align_cases import MODES
from roi_align_properties import Axis, add_gradient, calls, empty_in_layout, pooled

CASES = int(os.environ.get("MRCNN_PROPERTY_CASES", 800))
drawn = settings(
    max_examples=CASES,
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
EPS = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}  # of a result that is rounded once
ops = torch.ops.mrcnn_plugin


def forward(call, maps, pyramid):
    """The output and argmax of the op that is tested."""
    if pyramid:
        return ops.roi_align_levels(
            maps, call.rois, call.levels, *call.size, call.scales, *call.options
        )
    return ops.roi_align(maps[0], call.rois, *call.size, call.scales[0], *call.options)


def rounding(dtype):
    """Of a sum of terms whose magnitudes sum to 1."""
    return 64 * (2.0**-52 if dtype == torch.float64 else 2.0**-23)


def assert_close(ours, expected, limit, call):
    ours, limit = ours.detach(), limit + 1e-7 * (ours.dtype == torch.float16)  # subnormals
    values = ours.double().numpy()
    with np.errstate(invalid="ignore"):
        close = abs(values - expected) <= limit + EPS.get(ours.dtype, 0) * abs(expected)
    close |= (values == expected) | (np.isnan(values) & np.isnan(expected))
    assert close.all(), f"{call}\ngot {values[~close]}\nexpected {expected[~close]} +- {limit}"


def check_winners(call, maps, ys, xs, winners, expected, values, limit, exact):
    """The samples that the argmax names have the value of the maximum, and are the first if exact.

    maps: (C, H, W); winners, expected: the numbers of the samples (C,); values: the maxima (C,).
    """
    if exact and max(ys[2], xs[2]) <= 4 and np.isin(maps, (-2, -1, 0, 1, 2)).all():
        assert (winners == expected).all(), f"{call}\nargmax {winners}, expected {expected}"
    for c, number in enumerate(winners):
        y, x = ys[1][ys[0] == number >> 15], xs[1][xs[0] == number & 2**15 - 1]
        if number < 0:  # samples outside the map, which are 0
            value = 0.0
        else:
            assert len(y) == len(x) == 1, f"{call}\nargmax {number} is no sample on the map"
            value = oracles.sample_values(maps[c : c + 1], y, x).item()
        close = value == values[c] or abs(value - values[c]) <= limit
        assert close or np.isnan([value, values[c]]).all(), f"{call}\nargmax {number}: {value}"


def check_roi(call, r, maps, result, grad, grad_maps):
    """Compare RoI r of the result with the oracle, and add its gradient to grad_maps.

    Returns by how much rounding may have moved its samples, or None if it can have several results.
    Its gradient is then set to zero.
    """
    output, argmax = result
    level, image = int(call.levels[r]), int(call.rois[r, 0])
    here, grad_here = maps[level][image], grad_maps[level][image]
    largest = abs(here[np.isfinite(here)]).max(initial=0)
    double = torch.float64 in (call.rois.dtype, output.dtype)
    box = call.rois[r].double().tolist()
    axes = [Axis(call, box, i, here.shape[1 + i], call.scales[level], double) for i in (0, 1)]
    if not all(axis.certain for axis in axes):
        assert (output[r].double().nan_to_num(0, 0, 0).abs() <= 1.01 * largest).all(), call
        grad[r] = 0
        return None
    error = max(axis.error for axis in axes)
    limit = largest * (8 * error + rounding(output.dtype))
    for p, y in enumerate(axes[0].kept):
        for q, x in enumerate(axes[1].kept):
            ys, xs = axes[0].samples(y), axes[1].samples(x)
            values, winners = pooled(here, ys, xs, call.mode)
            assert_close(output[r, :, p, q], values, limit, call)
            if call.mode == "max":
                expected, winners = winners, argmax[r, :, p, q].numpy()
                check_winners(call, here, ys, xs, winners, expected, values, limit, error == 0)
            grad_bin = grad[r, :, p, q].double().numpy()
            add_gradient(grad_here, ys, xs, grad_bin, winners, call.mode)
    return error


def check(call, pyramid):
    """Return the number of RoIs that were compared with the oracle."""
    leaves = [maps.detach().requires_grad_() for maps in call.maps]
    output, argmax = forward(call, leaves, pyramid)
    rng = np.random.default_rng(call.seed)
    grad = empty_in_layout(output.shape, call.grad_layout, output.dtype, rng)
    grad.copy_(torch.from_numpy(rng.standard_normal(output.shape)))
    maps = [tensor.double().numpy() for tensor in call.maps]
    expected = [np.zeros(tensor.shape) for tensor in maps]
    result = output.detach(), argmax
    errors = [check_roi(call, r, maps, result, grad, expected) for r in range(len(call.rois))]
    compared = [error for error in errors if error is not None]
    total = grad.double().abs().sum().item()
    limit = total * (8 * max(compared, default=0) + rounding(output.dtype))
    for ours, theirs in zip(torch.autograd.grad(output, leaves, grad), expected, strict=True):
        assert_close(ours, theirs, limit, call)
    return len(compared)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pyramid", [False, True], ids=["roi_align", "roi_align_levels"])
def test_any_call_equals_the_oracle(pyramid, mode, record_property):
    count = Counter()

    @drawn
    @given(calls(mode, pyramid))
    def run(call):
        compared = check(call, pyramid)
        count.update(cases=1, rois=len(call.rois), compared=compared)

    run()
    for name, value in count.items():
        record_property(name, value)
    assert count["cases"] >= CASES
    assert count["compared"] > 0.7 * count["rois"] > CASES  # the others were only bounded


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pyramid", [False, True], ids=["roi_align", "roi_align_levels"])
def test_an_index_out_of_range_names_its_roi(pyramid, mode, record_property):
    """In the forward and in the backward, whatever else the call has."""
    count = Counter()

    @settings(drawn, max_examples=max(CASES // 10, 10))
    @given(calls(mode, pyramid), st.data())
    def run(call, data):
        if len(call.rois) == 0:
            return
        r = data.draw(st.integers(0, len(call.rois) - 1))
        batch = len(call.maps[0])
        wrong = (-1.0, batch, batch + 0.5, 1e9, 3e38, float("nan"), float("inf"))
        call.rois[r, 0] = data.draw(st.sampled_from(wrong))
        with pytest.raises(RuntimeError, match=rf"batch index of rois\[{r}\] is"):
            forward(call, call.maps, pyramid)
        count["cases"] += 1

    run()
    record_property("cases", count["cases"])
    assert count["cases"] >= 5
