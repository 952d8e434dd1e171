"""RoIAlign on bad input: a clear error or a stated answer, never a crash."""

import pytest
import torch

from mrcnn_plugin.layers.roi_align import RoIAlign, roi_align

MODES = ("avg", "max")
FEATURES = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(0))
ROIS = torch.tensor([[0, 1.0, 1.0, 6.0, 5.0], [1, 2.0, 0.5, 9.0, 7.5], [1, 0.0, 0.0, 4.0, 4.0]])


# ---- Refused, saying what came and what was expected ---------------------------------------------


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"features": FEATURES[0]}, ValueError, r"\(N, C, H, W\).*\(3, 8, 10\)"),
        ({"features": FEATURES.int()}, TypeError, "float16.*got torch.int32"),
        ({"features": FEATURES.to(torch.complex64)}, TypeError, "got torch.complex64"),
        ({"features": FEATURES.numpy()}, TypeError, "tensor, got ndarray"),
        ({"rois": ROIS[:, 1:]}, ValueError, r"\(R, 5\).*list.*\(3, 4\)"),
        ({"rois": ROIS[0]}, ValueError, r"\(R, 5\).*\(5,\)"),
        ({"rois": ROIS.half()}, TypeError, "float32.*got torch.float16"),
        ({"rois": ROIS.bfloat16()}, TypeError, "float32.*got torch.bfloat16"),
        ({"rois": ROIS.long()}, TypeError, "float32.*got torch.int64"),
        ({"rois": ROIS.to("meta")}, ValueError, "rois are on meta but features on cpu"),
        ({"rois": ROIS.clone().requires_grad_()}, ValueError, r"rois\.detach\(\)"),
        ({"rois": "boxes"}, TypeError, "list of tensors, got str"),
        ({"rois": [ROIS[:, 1:]]}, ValueError, "one tensor per image, got 1 tensors for 2 images"),
        ({"rois": [ROIS[:, 1:], ROIS]}, ValueError, r"rois\[1\].*\(R_i, 4\).*\(3, 5\)"),
        ({"rois": [ROIS[:, 1:], None]}, TypeError, "list of tensors"),
        ({"output_size": 0}, ValueError, "positive, got 0"),
        ({"output_size": (7, -1)}, ValueError, r"positive, got \(7, -1\)"),
        ({"output_size": (7, 7, 7)}, TypeError, "two ints"),
        ({"output_size": 7.0}, TypeError, "int or two ints.*7.0"),
        ({"output_size": (7, 7.0)}, TypeError, "two ints"),
        ({"output_size": None}, TypeError, "int or two ints.*None"),
        ({"spatial_scale": 0.0}, ValueError, "positive, got 0.0"),
        ({"spatial_scale": -1.0}, ValueError, "positive, got -1.0"),
        ({"spatial_scale": float("nan")}, ValueError, "finite.*nan"),
        ({"spatial_scale": float("inf")}, ValueError, "finite.*inf"),
        ({"sampling_ratio": -1}, ValueError, "0 .adaptive.*got -1"),
        ({"sampling_ratio": 2**31}, ValueError, "got 2147483648"),
        ({"sampling_ratio": 2**15, "mode": "max"}, ValueError, "32767.*'max'.*got 32768"),
        ({"sampling_ratio": 2.0}, TypeError, "sampling_ratio must be an int, got 2.0"),
        ({"mode": "mean"}, ValueError, "'avg', 'max'.*'mean'"),
        ({"bin_stride": 0}, ValueError, "bin_stride must be at least 1, got 0"),
        ({"bin_stride": 1.5}, TypeError, "bin_stride must be an int, got 1.5"),
    ],
)  # fmt: skip
def test_rejected(change, error, words):
    arguments = {"features": FEATURES, "rois": ROIS, "output_size": 7, **change}
    with pytest.raises(error, match=words):
        roi_align(**arguments)
    options = {k: v for k, v in change.items() if k not in ("features", "rois")}
    if options:
        with pytest.raises(error, match=words):
            RoIAlign(**{"output_size": 7, **options})


def test_rois_that_require_grad_are_fine_where_no_gradient_is_recorded():
    with torch.no_grad():
        roi_align(FEATURES, ROIS.clone().requires_grad_(), 2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "index, shown",
    [(-1.0, "-1"), (2.0, "2"), (1e6, "1e+06"), (3e38, "3e+38"), (0.7, "0.7"),
     (float("nan"), "nan"), (float("inf"), "inf")],
)  # fmt: skip
def test_batch_index_out_of_range_names_the_roi(mode, index, shown):
    rois = ROIS.clone()
    rois[1, 0] = index
    with pytest.raises(RuntimeError) as error:
        roi_align(FEATURES, rois, 7, mode=mode)
    assert f"rois[1] is {shown};" in str(error.value)
    assert "N = 2 images" in str(error.value)


DIRECT = (FEATURES, ROIS, 7, 7, 1.0, 0, True, 0, 1)


@pytest.mark.parametrize(
    "position, value, words",
    [
        (0, FEATURES[0], "(N, C, H, W)"),
        (0, FEATURES.int(), "got Int"),
        (1, ROIS[:, :4], "(R, 5)"),
        (1, ROIS[:, 0], "(R, 5)"),
        (1, ROIS.half(), "got Half"),
        (2, 0, "positive, got 0 x 7"),
        (3, -3, "positive, got 7 x -3"),
        (4, 0.0, "spatial_scale"),
        (4, float("nan"), "spatial_scale"),
        (5, -1, "sampling_ratio"),
        (7, -1, "mode must be 0 (average) or 1 (maximum), got -1"),
        (7, 2, "got 2"),
        (8, 0, "bin_stride"),
    ],
)
def test_the_op_itself_rejects_them_too(position, value, words):
    arguments = list(DIRECT)
    arguments[position] = value
    with pytest.raises(RuntimeError) as info:
        torch.ops.mrcnn_plugin.roi_align(*arguments)
    assert words in str(info.value)


@pytest.mark.parametrize("mode", MODES)
def test_the_backward_op_rejects_wrong_shapes_and_survives_any_argmax(mode):
    options = (7, 7, 1.0, 0, True, MODES.index(mode), 1)
    output, argmax = torch.ops.mrcnn_plugin.roi_align(FEATURES, ROIS, *options)
    backward = torch.ops.mrcnn_plugin.roi_align_backward
    with pytest.raises(RuntimeError, match="grad_output must be"):
        backward(output[:2], ROIS, argmax, 2, 3, 8, 10, *options)
    with pytest.raises(RuntimeError, match="grad_output must be"):
        backward(output, ROIS, argmax, 2, 4, 8, 10, *options)
    with pytest.raises(RuntimeError, match=r"batch index of rois\[1\]"):
        backward(output, ROIS, argmax, 1, 3, 8, 10, *options)
    if mode == "max":
        with pytest.raises(RuntimeError, match="argmax"):
            backward(output, ROIS, argmax.long(), 2, 3, 8, 10, *options)
        for value in (-(2**31), -2, 2**15, 2**31 - 1):
            wrong = torch.full_like(argmax, value)
            assert backward(output, ROIS, wrong, 2, 3, 8, 10, *options).isfinite().all()


# ---- Answered ------------------------------------------------------------------------------------


def forward_and_backward(features, rois, *args, **kwargs):
    features = features.detach().requires_grad_()
    output = roi_align(features, rois, *args, **kwargs)
    output.sum().backward()
    return output.detach(), features.grad


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_box_that_is_not_finite_is_zero_and_affects_no_other(mode, sampling_ratio, aligned, value):
    options = {"aligned": aligned, "mode": mode}
    for coordinate in (1, 2, 3, 4):
        rois = torch.cat([ROIS, ROIS[1:2]])[[0, 3, 1, 2]].clone()
        rois[1, coordinate] = value
        output, grad = forward_and_backward(FEATURES, rois, 3, 1.0, sampling_ratio, **options)
        others, expected = forward_and_backward(FEATURES, ROIS, 3, 1.0, sampling_ratio, **options)
        assert not output[1].any()
        assert torch.equal(output[[0, 2, 3]], others)
        assert torch.equal(grad, expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [1e38, -1e38, 3.4e38])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
def test_coordinates_at_the_edge_of_float32(mode, value, sampling_ratio):
    for coordinate in (1, 2, 3, 4):
        rois = ROIS.clone()
        rois[1, coordinate] = value
        output, grad = forward_and_backward(FEATURES, rois, 3, 16.0, sampling_ratio, mode=mode)
        assert output.isfinite().all() and grad.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "shape, rois",
    [
        ((2, 3, 8, 10), ROIS[:0]),
        ((0, 3, 8, 10), ROIS[:0]),
        ((2, 0, 8, 10), ROIS),
        ((2, 3, 0, 10), ROIS),
        ((2, 3, 8, 0), ROIS),
        ((2, 3, 0, 0), ROIS),
        ((2, 3, 8, 10), [ROIS[:0, 1:], ROIS[:0, 1:]]),
        ((0, 3, 8, 10), []),
    ],
)
def test_empty_inputs(mode, shape, rois):
    output, grad = forward_and_backward(torch.ones(shape), rois, (3, 2), mode=mode)
    count = len(rois) if isinstance(rois, torch.Tensor) else 0
    assert output.shape == (count, shape[1], 3, 2)
    assert not output.any()
    assert grad.shape == shape
    assert not grad.any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_pixel_that_is_not_finite_stays_in_the_bins_it_belongs_to(mode, value):
    """Samples on pixel centres: the weight of the next pixel is exactly zero, not read."""
    features = torch.zeros(1, 1, 6, 6)
    features[0, 0, 2, 3] = value
    rois = torch.tensor([[0, 0.0, 0.0, 6.0, 6.0]])
    output = roi_align(features, rois, 6, sampling_ratio=1, mode=mode)[0, 0]
    assert torch.equal(output.isfinite(), features[0, 0].isfinite())
    assert torch.equal(output.isnan(), features[0, 0].isnan())


def test_maximum_of_a_nan_is_nan():
    features = torch.arange(16.0).view(1, 1, 4, 4).clone()
    features[0, 0, 1, 2] = float("nan")
    rois = torch.tensor([[0, 0.0, 0.0, 4.0, 4.0]])
    output = roi_align(features, rois, 2, sampling_ratio=2, mode="max")[0, 0]
    assert torch.equal(output.isnan(), torch.tensor([[False, True], [False, False]]))
    _, grad = forward_and_backward(features, rois, 1, 1.0, 4, mode="max")
    assert grad[0, 0, 1, 2] == 1 and grad.sum() == 1  # to the NaN itself


@pytest.mark.parametrize("mode", MODES)
def test_all_minus_infinity(mode):
    features = torch.full((1, 1, 4, 4), float("-inf"))
    rois = torch.tensor([[0, 0.0, 0.0, 4.0, 4.0]])
    assert roi_align(features, rois, 1, sampling_ratio=2, mode=mode).item() == float("-inf")
