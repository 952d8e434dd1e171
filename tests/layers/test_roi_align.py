"""RoIAlign against worked examples, its definition, torchvision, and PyTorch's rules for ops."""

import time

import numpy as np
import oracles
import pytest
import torch
import torch._dynamo.testing
import torchvision
from roi_align_cases import (
    HEIGHT,
    MODES,
    SCALE,
    WIDTH,
    gradient,
    make_features,
    make_rois,
    random_rois,
    reverse,
)

from mrcnn_plugin.layers.roi_align import RoIAlign, roi_align

# ---- The document --------------------------------------------------------------------------------


def test_bilinear_example_of_the_document():
    """Q around the point (9.94, 6.50); pixel (i, j) has its centre at (i + 0.5, j + 0.5)."""
    features = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    features[0, 0, 6, 9], features[0, 0, 6, 10] = 0.1, 0.2
    features[0, 0, 7, 9], features[0, 0, 7, 10] = 1.0, 0.7
    box = torch.tensor([[0, 9.94 - 1, 6.50 - 1, 9.94 + 1, 6.50 + 1]], dtype=torch.float64)
    for mode in MODES:
        value = roi_align(features, box, 1, sampling_ratio=1, mode=mode).item()
        assert value == pytest.approx(0.56 * 0.1 + 0.44 * 0.2, abs=1e-12)
        assert round(value, 2) == 0.14


def test_document_16x16x512_to_3x3x512_with_four_samples_and_max():
    features = torch.randn(1, 512, 16, 16, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[0, 2.3, 1.8, 13.1, 12.6]])
    output = roi_align(features, box, 3, sampling_ratio=2, mode="max")
    assert output.shape == (1, 512, 3, 3)
    expected = oracles.roi_align(features.numpy(), box, (3, 3), sampling_ratio=2, mode="max")
    np.testing.assert_allclose(output.numpy(), expected, atol=2e-5)


# ---- The definition ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("output_size", [(3, 3), (5, 2)])
def test_equals_loop_oracle(mode, aligned, sampling_ratio, output_size):
    features, rois = make_features(), make_rois()
    rois = torch.cat([rois, reverse(rois[:6])])
    options = {"aligned": aligned, "mode": mode}
    for bin_stride in (1, 2, 3):
        options["bin_stride"] = bin_stride
        output = roi_align(features, rois, output_size, SCALE, sampling_ratio, **options)
        expected = oracles.roi_align(
            features.numpy(), rois, output_size, SCALE, sampling_ratio, **options
        )
        np.testing.assert_allclose(output.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("height, width", [(1, 1), (1, 5), (6, 1), (2, 2)])
def test_equals_loop_oracle_on_narrow_maps(mode, height, width):
    features = torch.randn(2, 3, height, width, dtype=torch.float64)
    rois = random_rois(20, 3, height, width)
    output = roi_align(features, rois, (3, 2), 1.0, 2, mode=mode)
    expected = oracles.roi_align(features.numpy(), rois, (3, 2), 1.0, 2, mode=mode)
    np.testing.assert_allclose(output.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bin_stride", [2, 3, 5, 100])
def test_bin_stride_is_a_slice_of_the_full_grid(mode, bin_stride):
    features, rois = make_features(40, dtype=torch.float32), make_rois(torch.float32)
    full = roi_align(features, rois, (14, 9), SCALE, mode=mode)
    kept = roi_align(features, rois, (14, 9), SCALE, mode=mode, bin_stride=bin_stride)
    assert torch.equal(kept, full[:, :, ::bin_stride, ::bin_stride])

    sliced = lambda *args, **kw: roi_align(*args, **kw)[:, :, ::bin_stride, ::bin_stride]  # noqa: E731
    args = (features, rois, (14, 9), SCALE)
    torch.testing.assert_close(
        gradient(roi_align, *args, mode=mode, bin_stride=bin_stride),
        gradient(sliced, *args, mode=mode),
        atol=1e-6,
        rtol=1e-6,
    )


def test_list_of_boxes_per_image():
    features, rois = make_features(), make_rois()
    boxes = [rois[rois[:, 0] == n, 1:] for n in range(2)]
    stacked = torch.cat([rois[rois[:, 0] == n] for n in range(2)])
    assert torch.equal(roi_align(features, boxes, 3), roi_align(features, stacked, 3))


@pytest.mark.parametrize("aligned, expected", [(True, 1.5), (False, 2.0)])
def test_aligned_by_hand(aligned, expected):
    """The example of the docstring, a sample at x = 2.0 on the ramp f(j) = j."""
    ramp = torch.arange(5.0).expand(1, 1, 5, 5)
    box = torch.tensor([[0, 1.0, 1.0, 3.0, 3.0]])  # one bin and one sample, the box's centre
    assert roi_align(ramp, box, 1, 1.0, 1, aligned=aligned).item() == expected


def test_module_is_the_function():
    features, rois = make_features(), make_rois()
    options = {"aligned": False, "mode": "max", "bin_stride": 2}
    module = RoIAlign((4, 3), SCALE, 2, **options)
    expected = roi_align(features, rois, (4, 3), SCALE, 2, **options)
    assert torch.equal(module(features, rois), expected)
    for word in ("(4, 3)", "0.5", "'max'", "bin_stride=2"):
        assert word in repr(module)


# ---- torchvision ---------------------------------------------------------------------------------


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("output_size", [(7, 7), (14, 14), (5, 3), (1, 1)])
@pytest.mark.parametrize(
    "dtype, forward, backward", [(torch.float64, 1e-12, 1e-11), (torch.float32, 1e-5, 1e-4)]
)
def test_average_equals_torchvision(aligned, sampling_ratio, output_size, dtype, forward, backward):
    features = make_features(5, dtype=dtype)
    rois = torch.cat([make_rois(), random_rois(60, 1, HEIGHT / SCALE, WIDTH / SCALE)]).to(dtype)
    if sampling_ratio:
        rois = torch.cat([rois, reverse(rois)])
    args = (features, rois, output_size, SCALE, sampling_ratio)
    theirs = torchvision.ops.roi_align(*args, aligned)
    torch.testing.assert_close(roi_align(*args, aligned=aligned), theirs, atol=forward, rtol=0)
    torch.testing.assert_close(
        gradient(roi_align, *args, aligned=aligned),
        gradient(torchvision.ops.roi_align, *args, aligned=aligned),
        atol=backward,
        rtol=backward,
    )


def test_maximum_equals_max_pooled_fine_average():
    """2 x 2 samples per bin equal 2 x 2 bins of one sample each; coordinates round differently."""
    features, rois = make_features(40), random_rois(50, 2, HEIGHT / SCALE, WIDTH / SCALE)

    def composed(features, rois, output_size, scale, _):
        fine = torchvision.ops.roi_align(features, rois, 2 * output_size, scale, 1, True)
        return torch.nn.functional.max_pool2d(fine, 2)

    args = (features, rois, 4, SCALE, 2)
    ours = roi_align(*args, mode="max")
    torch.testing.assert_close(ours, composed(*args), atol=1e-10, rtol=0)
    torch.testing.assert_close(
        gradient(roi_align, *args, mode="max"), gradient(composed, *args), atol=1e-10, rtol=0
    )


# ---- dtypes and layouts --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)])
def test_half_features_with_float32_rois_round_once(mode, dtype, tolerance):
    """Boxes thousands of pixels out, where half coordinates would be off by whole pixels."""
    features = torch.randn(1, 3, 60, 90, generator=torch.Generator().manual_seed(0)).to(dtype)
    rois = torch.tensor([[0, 1201.3, 803.7, 1377.1, 911.9], [0, 3.3, 5.1, 1423.7, 955.5]])
    args = (7, 1 / 16, 2)
    output = roi_align(features, rois, *args, mode=mode)
    assert output.dtype == dtype
    expected = roi_align(features.double(), rois.double(), *args, mode=mode)
    torch.testing.assert_close(output.double(), expected, atol=tolerance, rtol=tolerance)

    ours = gradient(roi_align, features, rois, *args, mode=mode)
    assert ours.dtype == dtype
    expected = gradient(
        roi_align, features.double(), rois.double(), *args, mode=mode,
        grad=torch.randn(
            output.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64
        ).to(dtype).double(),
    )  # fmt: skip
    torch.testing.assert_close(ours.double(), expected, atol=tolerance, rtol=tolerance)


def test_coordinates_are_as_precise_as_the_finer_of_features_and_rois():
    features, rois = make_features(), make_rois()
    assert torch.equal(
        roi_align(features, rois.float(), 3), roi_align(features, rois.float().double(), 3)
    )
    torch.testing.assert_close(
        roi_align(features.float(), rois, 3).double(),
        roi_align(features.float().double(), rois, 3),
        atol=1e-6,
        rtol=0,
    )


@pytest.mark.parametrize("device_type", ["cpu"])
@pytest.mark.parametrize("mode", MODES)
def test_autocast_does_not_change_rois(device_type, mode):
    features, rois = make_features(dtype=torch.float32), make_rois(torch.float32)
    with torch.autocast(device_type, torch.bfloat16):
        assert torch.equal(
            roi_align(features, rois, 3, mode=mode),
            roi_align(features, rois, 3, mode=mode).float(),
        )
        halved = roi_align(features.bfloat16(), rois, 3, mode=mode)
    assert halved.dtype == torch.bfloat16
    assert torch.equal(halved, roi_align(features.bfloat16(), rois, 3, mode=mode))


@pytest.mark.parametrize("mode", MODES)
def test_any_layout(mode):
    features, rois = make_features(40), make_rois()
    expected = roi_align(features, rois, 3, SCALE, mode=mode)
    padded = torch.randn(3, 50, HEIGHT + 4, WIDTH + 3, dtype=torch.float64)
    padded[1:, 4:44, 2:-2, 1:-2] = features
    layouts = {
        "channels last": features.to(memory_format=torch.channels_last),
        "a window with an offset": padded[1:, 4:44, 2:-2, 1:-2],
        "transposed": features.transpose(2, 3).contiguous().transpose(2, 3),
    }
    for name, laid_out in layouts.items():
        assert torch.equal(roi_align(laid_out, rois, 3, SCALE, mode=mode), expected), name
        everyother = torch.stack([rois, rois], dim=2)[:, :, 0]
        assert torch.equal(roi_align(laid_out, everyother, 3, SCALE, mode=mode), expected), name

    one = features[:1, :1]
    same = roi_align(one.expand(2, 40, -1, -1), rois, 3, SCALE, mode=mode)
    assert torch.equal(same, roi_align(one.repeat(2, 40, 1, 1), rois, 3, SCALE, mode=mode))


@pytest.mark.parametrize("mode", MODES)
def test_channels_last_in_and_out(mode):
    features, rois = make_features(40).to(memory_format=torch.channels_last), make_rois()
    features.requires_grad_()
    output = roi_align(features, rois, 3, SCALE, mode=mode)
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert roi_align(features.contiguous(), rois, 3, SCALE, mode=mode).is_contiguous()
    output.backward(torch.ones_like(output))
    assert features.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mode", MODES)
def test_any_layout_of_the_incoming_gradient(mode):
    features, rois = make_features(40), make_rois()
    options = {"mode": mode}
    grad = torch.randn(len(rois), 40, 3, 4, dtype=torch.float64)
    expected = gradient(roi_align, features, rois, (3, 4), SCALE, grad=grad, **options)
    for laid_out in (
        grad.to(memory_format=torch.channels_last),
        grad.transpose(1, 3).contiguous().transpose(1, 3),
        torch.stack([grad, grad], dim=-1)[..., 0],
    ):
        ours = gradient(roi_align, features, rois, (3, 4), SCALE, grad=laid_out, **options)
        assert torch.equal(ours, expected)
    expanded = torch.ones((), dtype=torch.float64).expand_as(grad)
    ours = gradient(roi_align, features, rois, (3, 4), SCALE, grad=expanded, **options)
    expected = gradient(roi_align, features, rois, (3, 4), SCALE, grad=expanded.clone(), **options)
    assert torch.equal(ours, expected)


# ---- Gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradcheck(mode, aligned, sampling_ratio):
    features = make_features(1)[:, :, :5, :6].clone().requires_grad_()
    options = {"aligned": aligned, "mode": mode, "bin_stride": 2}
    op = lambda f: roi_align(f, make_rois(), (4, 3), SCALE, sampling_ratio, **options)  # noqa: E731
    assert torch.autograd.gradcheck(op, (features,))


def test_average_backward_is_the_transpose_of_the_oracle():
    """<A f, g> = <f, A^T g>."""
    features, rois = make_features(1), make_rois()
    output = oracles.roi_align(features.numpy(), rois, (5, 4), SCALE)
    grad = torch.randn(output.shape, dtype=torch.float64)
    back = gradient(roi_align, features, rois, (5, 4), SCALE, grad=grad)
    assert (features * back).sum().item() == pytest.approx((output * grad.numpy()).sum(), abs=1e-10)


def test_maximum_gives_its_gradient_to_the_first_of_equals():
    features = torch.zeros(1, 1, 4, 6, dtype=torch.float64)
    box = torch.tensor([[0, 1.0, 1.0, 5.0, 3.0]], dtype=torch.float64)  # samples on pixel centres
    back = gradient(
        roi_align, features, box, 1, mode="max", grad=torch.full((1, 1, 1, 1), 3.0).double()
    )
    expected = torch.zeros_like(features)
    expected[0, 0, 1, 1] = 3.0
    assert torch.equal(back, expected)


def test_maximum_off_the_map_is_zero_without_gradient():
    features = torch.full((1, 1, 4, 4), -20000.0, dtype=torch.float64)
    inside = torch.tensor([[0, 1.0, 1.0, 3.0, 3.0]], dtype=torch.float64)
    across = torch.tensor([[0, -6.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
    assert roi_align(features, inside, 1, mode="max").item() == -20000.0
    assert roi_align(features, across, 1, mode="max").item() == 0.0
    assert not gradient(roi_align, features, across, 1, mode="max").any()
    # On a tie with zero a sample on the map wins, and has the gradient.
    back = gradient(
        roi_align, features * 0, across, 1, mode="max", grad=torch.ones(1, 1, 1, 1).double()
    )
    assert back.sum().item() == 1.0


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradgradcheck(aligned, sampling_ratio):
    features, rois = make_features().requires_grad_(), make_rois()[:6]
    op = lambda f: roi_align(f, rois, (3, 2), SCALE, sampling_ratio, aligned=aligned) ** 2  # noqa: E731
    assert torch.autograd.gradgradcheck(op, (features,))


def test_third_derivative_by_hand():
    """The mean m of 16 equal pixels x: m^3 = x^3, whose third directional derivative is 6."""
    features = torch.full((1, 1, 4, 4), 5.0, dtype=torch.float64, requires_grad=True)
    value = roi_align(features, torch.tensor([[0, 0.0, 0.0, 4.0, 4.0]]), 1).sum() ** 3
    for expected in (3 * 5.0**2, 6 * 5.0, 6.0):
        (grad,) = torch.autograd.grad(value, features, create_graph=True)
        value = grad.sum()
        assert value.item() == pytest.approx(expected)


def test_double_backward_of_the_maximum_raises():
    features = make_features().requires_grad_()
    output = roi_align(features, make_rois(), 3, mode="max")
    (grad,) = torch.autograd.grad((output**2).sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="mode='max' cannot be differentiated twice"):
        grad.sum().backward()


def test_no_gradient_is_computed_or_kept_without_need():
    features, rois = make_features(), make_rois()
    assert not roi_align(features, rois, 3).requires_grad
    with torch.no_grad():
        assert not roi_align(features.requires_grad_(), rois, 3).requires_grad


# ---- Determinism ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_bit_equal_for_any_number_of_threads_and_in_every_run(mode):
    features = make_features(150, dtype=torch.float32)
    rois = random_rois(80, 4, HEIGHT / SCALE, WIDTH / SCALE).float()
    args = (features, rois, 7, SCALE)
    threads, results = torch.get_num_threads(), []
    try:
        torch.use_deterministic_algorithms(True)
        for count in (1, 2, 3, 2, 1):
            torch.set_num_threads(count)
            output = roi_align(*args, mode=mode)
            results.append((output, gradient(roi_align, *args, mode=mode)))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    for output, back in results[1:]:
        assert torch.equal(output, results[0][0])
        assert torch.equal(back, results[0][1])


@pytest.mark.parametrize("mode", MODES)
def test_a_roi_does_not_depend_on_the_others(mode):
    features, rois = make_features(), make_rois()
    together = roi_align(features, rois, 3, SCALE, mode=mode)
    for r in range(len(rois)):
        alone = roi_align(features, rois[r : r + 1], 3, SCALE, mode=mode)
        assert torch.equal(together[r : r + 1], alone)


# ---- Large boxes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size, sampling_ratio", [(1e5, 0), (2e6, 0), (900.0, 100_000)])
def test_many_samples_are_still_exact(size, sampling_ratio):
    features = make_features(1, batch=1)
    box = [120.3 - size / 2, 77.7 - size / 3, 120.3 + size / 2, 77.7 + size * 2 / 3]
    rois = torch.tensor([[0, *box]], dtype=torch.float64)
    output = roi_align(features, rois, 3, 1 / 16, sampling_ratio)[0, 0].numpy()
    y = oracles.axis_matrix(HEIGHT, box[1], box[3], 3, 1 / 16, sampling_ratio)
    x = oracles.axis_matrix(WIDTH, box[0], box[2], 3, 1 / 16, sampling_ratio)
    expected = y @ features[0, 0].numpy() @ x.T
    np.testing.assert_allclose(output, expected, atol=1e-12, rtol=1e-9)
    assert np.abs(expected).max() > 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "size, sampling_ratio", [(1e9, 0), (1e15, 0), (3e38, 0), (1e9, 2), (500.0, 32767)]
)
def test_cost_does_not_grow_with_the_box(mode, dtype, size, sampling_ratio):
    """Enumerating the samples of a 1e9-pixel box would take 1e15 steps."""
    features = make_features(2, batch=1, dtype=dtype)
    rois = torch.tensor([[0.0, -size, -size, size, size]], dtype=dtype).expand(100, 5)
    start = time.perf_counter()
    output = roi_align(features, rois, 7, 1 / 16, sampling_ratio, mode=mode)
    back = gradient(roi_align, features, rois, 7, 1 / 16, sampling_ratio, mode=mode)
    assert time.perf_counter() - start < 5  # 100 RoIs forward, twice, and backward
    assert output.isfinite().all() and back.isfinite().all()


# ---- What PyTorch asks of an op ------------------------------------------------------------------


def op_arguments(mode, dtype=torch.float32, requires_grad=True):
    features = make_features(3, dtype=dtype).requires_grad_(requires_grad)
    return features, make_rois(torch.float32), 5, 4, SCALE, 2, True, MODES.index(mode), 2


@pytest.mark.parametrize("mode", MODES)
def test_opcheck(mode):
    forward = torch.ops.mrcnn_plugin.roi_align.default
    torch.library.opcheck(forward, op_arguments(mode))
    channels_last, *rest = op_arguments(mode, requires_grad=False)
    channels_last = channels_last.to(memory_format=torch.channels_last)
    torch.library.opcheck(forward, (channels_last, *rest))

    features, rois, *options = op_arguments(mode, requires_grad=False)
    output, argmax = forward(features, rois, *options)
    arguments = (torch.randn_like(output), rois, argmax, *features.shape, *options)
    torch.library.opcheck(torch.ops.mrcnn_plugin.roi_align_backward.default, arguments)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_in_one_graph(mode, dynamic):
    torch._dynamo.reset()
    backend = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    module = RoIAlign((5, 4), SCALE, 2, mode=mode, bin_stride=2)
    compiled = torch.compile(module, fullgraph=True, dynamic=dynamic, backend=backend)
    features, rois = make_features(), make_rois()
    compilations = []
    for count in (16, 9, 12):
        some = rois[:count].clone()
        assert torch.equal(compiled(features, some), module(features, some))
        assert torch.equal(gradient(compiled, features, some), gradient(module, features, some))
        compilations.append(backend.frame_count)
    if dynamic:
        assert compilations[0] == compilations[-1]
