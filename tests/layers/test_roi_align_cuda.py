"""RoIAlign on CUDA has the same results as on the CPU, where the definition is tested.

test_roi_align_emulation.py runs the tests with a `device` fixture without a GPU too.
"""

import pytest
import torch
import torchvision
from builders import run_python
from roi_align_cases import (
    CANONICAL,
    MODES,
    SCALE,
    SCALES,
    all_rois,
    every_input,
    every_op,
    gradient,
    make_features,
    make_rois,
)

from mrcnn_plugin.layers.multiscale_roi_align import multiscale_roi_align
from mrcnn_plugin.layers.roi_align import roi_align

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("mode", MODES)
def test_every_op_equals_the_python_functions_on_the_cpu(mode, device):
    results = every_op(mode, *every_input(device))
    features, rois, _, grad = every_input("cpu")
    leaves = [maps.requires_grad_() for maps in features]
    output = roi_align(leaves[0], rois, 3, SCALE, mode=mode)
    pooled = multiscale_roi_align(leaves, rois, 3, SCALES, mode=mode, **CANONICAL)
    expected = [output, *torch.autograd.grad(output, leaves[:1], grad)]
    expected += [pooled, *torch.autograd.grad(pooled, leaves, grad)]
    for ours, cpu in zip(results, expected, strict=True):
        assert cpu.any()
        torch.testing.assert_close(ours.cpu(), cpu.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("bin_stride", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "dtype, tolerance",
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)],
)
def test_equals_cpu(mode, aligned, sampling_ratio, bin_stride, layout, dtype, tolerance):
    channels = 21 if bin_stride == 1 else 24  # a multiple of the channels a thread owns, or not
    features = make_features(channels, dtype=dtype).contiguous(memory_format=layout)
    rois = all_rois(torch.float64 if dtype == torch.float64 else torch.float32, sampling_ratio)
    options = {"aligned": aligned, "mode": mode, "bin_stride": bin_stride}
    args = ((7, 5), SCALE, sampling_ratio)
    output = roi_align(features, rois, *args, **options)
    ours = roi_align(features.cuda(), rois.cuda(), *args, **options)
    torch.testing.assert_close(ours.cpu(), output, atol=tolerance, rtol=tolerance)

    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = gradient(roi_align, features, rois, *args, grad=grad, **options)
    ours = gradient(roi_align, features.cuda(), rois.cuda(), *args, grad=grad.cuda(), **options)
    torch.testing.assert_close(ours.cpu(), expected, atol=10 * tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("aligned", [True, False])
def test_equals_torchvision(aligned, layout):
    """Real sizes, whose RoIs take several parts. A sampling ratio excludes adaptive rounding."""
    torch.manual_seed(0)
    features = torch.randn(2, 256, 100, 168, device="cuda").contiguous(memory_format=layout)
    corners = torch.rand(1500, 2, device="cuda") * torch.tensor([1000.0, 600.0], device="cuda")
    sizes = torch.rand(1500, 2, device="cuda") * 300
    image = torch.arange(1500, device="cuda")[:, None] % 2
    rois = torch.cat([image, corners, corners + sizes], 1)
    grad = torch.randn(1500, 256, 7, 7, device="cuda").contiguous(memory_format=layout)
    ours = roi_align(features, rois, 7, 1 / 8, 2, aligned=aligned)
    theirs = torchvision.ops.roi_align(features, rois, 7, 1 / 8, 2, aligned)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    ours = gradient(roi_align, features, rois, 7, 1 / 8, 2, aligned=aligned, grad=grad)
    expected = gradient(torchvision.ops.roi_align, features, rois, 7, 1 / 8, 2, aligned, grad=grad)
    torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-3)  # theirs adds in any order


def test_more_elements_than_32_bits_count():
    """The last rows of a map of 2.3 billion elements, and its gradient."""
    if torch.cuda.mem_get_info()[0] < 30 << 30:
        pytest.skip("needs 30 GB of free GPU memory: run it on a larger GPU")
    small = torch.randn(1, 1024, 20, 1500, dtype=torch.float16, device="cuda")
    large = torch.zeros(1, 1024, 1500, 1500, dtype=torch.float16, device="cuda")
    large[:, :, -20:] = small
    # Bins of whole pixels, so that the rounding of coordinates is the same in both maps.
    rois = torch.tensor([[0.0, 1300, 2, 1489, 16], [0.0, 5, 4, 61, 11]], device="cuda")
    lower = rois + torch.tensor([0, 0, 1480, 0, 1480], device="cuda")
    assert torch.equal(roi_align(large, lower, 7), roi_align(small, rois, 7))
    expected = gradient(roi_align, small, rois, 7)
    ours = gradient(roi_align, large, lower, 7)
    torch.testing.assert_close(ours[:, :, -20:], expected, atol=1e-3, rtol=1e-3)
    assert not ours[:, :, :-20].any()


@pytest.mark.parametrize("mode", MODES)
def test_deterministic(mode, device):
    features = make_features(64, dtype=torch.float32).to(device)
    rois = all_rois(torch.float32).to(device)
    first = gradient(roi_align, features, rois, 7, SCALE, mode=mode)
    for _ in range(5):
        assert torch.equal(gradient(roi_align, features, rois, 7, SCALE, mode=mode), first)


@pytest.mark.parametrize("mode", MODES)
def test_any_layout(mode, device):
    features, rois = make_features(40).to(device), make_rois().to(device)
    expected = roi_align(features, rois, 3, SCALE, mode=mode)
    laid_out = features.to(memory_format=torch.channels_last)
    output = roi_align(laid_out, rois, 3, SCALE, mode=mode)
    assert torch.equal(output, expected)
    assert output.is_contiguous(memory_format=torch.channels_last)
    transposed = features.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(roi_align(transposed, rois, 3, SCALE, mode=mode), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("index", [-1.0, 2.0, 1e6, 3e38, 0.7, float("nan"), float("inf")])
def test_a_roi_of_no_image_is_zero_and_does_not_affect_others(mode, index, device):
    features = make_features(dtype=torch.float32).to(device)
    rois = make_rois(torch.float32).to(device)
    keep = torch.arange(len(rois), device=device) != 3
    wrong = rois.clone()
    wrong[3, 0] = index
    output = roi_align(features, wrong, 3, SCALE, mode=mode)
    assert not output[3].any()
    assert torch.equal(output[keep], roi_align(features, rois[keep], 3, SCALE, mode=mode))
    grad = torch.ones_like(output)
    assert torch.equal(
        gradient(roi_align, features, wrong, 3, SCALE, mode=mode, grad=grad),
        gradient(roi_align, features, rois[keep], 3, SCALE, mode=mode, grad=grad[keep]),
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", [-1, 2, 2**40])
def test_a_roi_of_no_level_is_zero_and_does_not_affect_others(mode, level, device):
    """Only a direct call of torch.ops can pass such a level."""
    op = torch.ops.mrcnn_plugin
    features = [make_features(9).to(device), make_features(9, seed=1)[:, :, :5, :7].to(device)]
    rois, options = make_rois().to(device), (0, True, MODES.index(mode), 1)
    levels = torch.arange(len(rois), device=device) % 2
    expected, _ = op.roi_align_levels(features, rois, levels, 3, 3, (0.5, 0.25), *options)
    wrong, keep = levels.clone(), torch.arange(len(rois), device=device) != 3
    wrong[3] = level
    output, argmax = op.roi_align_levels(features, rois, wrong, 3, 3, (0.5, 0.25), *options)
    assert not output[3].any() and torch.equal(output[keep], expected[keep])
    if mode == "max":
        assert (argmax[3] == -1).all()
    for i, (maps, scale) in enumerate(zip(features, (0.5, 0.25))):
        backward = lambda grad, rois, levels, argmax, i=i, maps=maps, scale=scale: (  # noqa: E731
            op.roi_align_levels_backward(
                grad, rois, levels, i, argmax, *maps.shape, 3, 3, scale, *options
            )
        )
        some = argmax[keep] if mode == "max" else argmax
        expected_grad = backward(output[keep], rois[keep], levels[keep], some)
        grad = backward(torch.ones_like(output) * output, rois, wrong, argmax)
        assert torch.equal(grad, expected_grad)


def test_more_levels_than_a_launch_supports_are_an_error(device):
    maps = [torch.ones(1, 1, 2, 2, device=device)] * 9
    levels = torch.zeros(1, dtype=torch.int64, device=device)
    rois = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]], device=device)
    with pytest.raises(RuntimeError, match="at most 8 maps on CUDA, got 9"):
        torch.ops.mrcnn_plugin.roi_align_levels(
            maps, rois, levels, 1, 1, [1.0] * 9, 0, True, MODES.index("avg"), 1
        )


@pytest.mark.parametrize("value", [-(2**31), -2, 2**15, 2**31 - 1])
def test_any_argmax_is_safe(value, device):
    features, rois = make_features(9).to(device), make_rois().to(device)
    options = (3, 3, SCALE, 0, True, MODES.index("max"), 1)
    output, argmax = torch.ops.mrcnn_plugin.roi_align(features, rois, *options)
    wrong = torch.full_like(argmax, value)
    grad = torch.ops.mrcnn_plugin.roi_align_backward(output, rois, wrong, *features.shape, *options)
    assert grad.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9, 3e38])
def test_hostile_boxes(mode, value):
    features, rois = make_features(dtype=torch.float32), make_rois(torch.float32)
    rois[3, 3] = value
    for sampling_ratio in (0, 2):
        ours = roi_align(features.cuda(), rois.cuda(), 3, SCALE, sampling_ratio, mode=mode)
        expected = roi_align(features, rois, 3, SCALE, sampling_ratio, mode=mode)
        torch.testing.assert_close(ours.cpu(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(0, 3, 8, 9), (2, 0, 8, 9), (2, 3, 0, 9), (2, 3, 8, 0)])
def test_empty_inputs(mode, shape, device):
    rois = make_rois(torch.float32)[: 2 if shape[0] else 0].to(device)
    features = torch.ones(shape, device=device, requires_grad=True)
    output = roi_align(features, rois, 3, mode=mode)
    output.sum().backward()
    assert output.shape == (len(rois), shape[1], 3, 3)
    assert not output.any() and not features.grad.any()


@pytest.mark.parametrize("mode", MODES)
def test_uses_the_current_stream(mode):
    features, rois, levels, grad = every_input("cuda")
    expected = every_op(mode, [maps * 2 for maps in features], rois, levels, grad * 2)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # a kernel on another stream would read too early
        doubled = [maps * 2 for maps in features]
        results = every_op(mode, doubled, rois, levels, grad * 2)
    stream.synchronize()
    torch.testing.assert_close(results, expected, atol=0, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_does_not_synchronize_and_can_be_captured_in_a_graph(mode):
    features, rois, levels, grad = every_input("cuda")
    expected = every_op(mode, features, rois, levels, grad)
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = every_op(mode, features, rois, levels, grad)
        public = multiscale_roi_align(features, rois, 3, SCALES, mode=mode, **CANONICAL)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close([*results, public], [*expected, expected[2]], atol=0, rtol=0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = every_op(mode, features, rois, levels, grad)
    for inputs in (*features, grad):
        inputs.mul_(2)  # a replay reads the current values
    expected = every_op(mode, features, rois, levels, grad)
    graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(results, expected, atol=0, rtol=0)


def test_the_first_call_of_a_process_can_be_captured():
    code = """if True:
        import torch
        from mrcnn_plugin.layers.roi_align import roi_align
        features = torch.randn(1, 8, 9, 9, device="cuda")
        rois = torch.tensor([[0.0, 1, 1, 7, 6]], device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = roi_align(features, rois, 3)
        graph.replay()
        assert torch.equal(output, roi_align(features, rois, 3)) and output.any()
    """
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mode", MODES)
def test_opcheck_and_autocast(mode):
    features = make_features(3, dtype=torch.float32).cuda().requires_grad_()
    rois = make_rois(torch.float32).cuda()
    arguments = (features, rois, 5, 4, SCALE, 2, True, MODES.index(mode), 2)
    torch.library.opcheck(torch.ops.mrcnn_plugin.roi_align.default, arguments)
    with torch.autocast("cuda", torch.float16):
        output = roi_align(features.half(), rois, 3, mode=mode)
    assert torch.equal(output, roi_align(features.half(), rois, 3, mode=mode))


def test_rois_on_another_device_are_an_error():
    with pytest.raises(ValueError, match="rois are on cpu but features on cuda"):
        roi_align(make_features().cuda(), make_rois(), 3)
