"""RoIAlign on a feature pyramid: detectron2's ROIPooler, and one level at a time."""

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from roi_align_cases import MODES, PYRAMID_SCALES, gradient, make_pyramid, make_pyramid_rois

from mrcnn_plugin.layers.multiscale_roi_align import (
    MultiScaleRoIAlign,
    assign_levels,
    multiscale_roi_align,
)
from mrcnn_plugin.layers.roi_align import roi_align


def gradients(op, features, *args, **kwargs):
    leaves = [f.detach().requires_grad_() for f in features]
    output = op(leaves, *args, **kwargs)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(7)).to(output.dtype)
    return torch.autograd.grad(output, leaves, grad)


# ---- Levels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, level", [(1, 2), (111, 2), (113, 3), (223, 3), (225, 4), (449, 5), (5000, 5)]
)
def test_levels_of_the_paper(size, level):
    """224 pixels are on level 4, and every octave is one level."""
    rois = torch.tensor([[0.0, 10.0, 20.0, 10.0 + size, 20.0 + size]])
    assert assign_levels(rois, 2, 5).tolist() == [level - 2]
    assert assign_levels(rois, 2, 5, canonical_box_size=112, canonical_level=3).tolist() == [
        level - 2
    ]


def test_boxes_without_a_size_are_on_the_finest_level():
    nan, inf = float("nan"), float("inf")
    rois = torch.tensor(
        [[0, nan, 1, 5, 5], [0, 5, 5, 5, 5], [0, 9, 1, 5, 5], [0, -inf, 0, -inf, 5]]
    )
    assert assign_levels(rois, 2, 5).tolist() == [0, 0, 0, 0]


# ---- The op --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("levels", [4, 2, 1])
def test_equals_detectron2(sampling_ratio, aligned, levels):
    features, rois, scales = (
        make_pyramid(levels=levels),
        make_pyramid_rois(),
        PYRAMID_SCALES[:levels],
    )
    boxes = [rois[rois[:, 0] == n, 1:] for n in range(2)]
    pooler = ROIPooler(7, scales, sampling_ratio, "ROIAlignV2" if aligned else "ROIAlign")
    theirs = lambda features, boxes: pooler(features, [Boxes(b) for b in boxes])  # noqa: E731
    ours = MultiScaleRoIAlign(7, scales, sampling_ratio, aligned=aligned)
    # torchvision fuses multiplications and additions of coordinates on some processors (arm64).
    torch.testing.assert_close(ours(features, boxes), theirs(features, boxes), atol=5e-5, rtol=0)
    for mine, expected in zip(gradients(ours, features, boxes), gradients(theirs, features, boxes)):
        torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bin_stride", [1, 2])
@pytest.mark.parametrize("channels", [5, 40])
def test_equals_one_level_at_a_time(mode, dtype, bin_stride, channels):
    features, rois = make_pyramid(channels, dtype), make_pyramid_rois()
    options = {"mode": mode, "bin_stride": bin_stride}
    levels = assign_levels(rois, 2, 5)
    assert set(levels.tolist()) == {0, 1, 2, 3}
    kept = (3, 2) if bin_stride == 2 else (5, 4)

    def expected(features):
        outputs = torch.zeros(len(rois), channels, *kept, dtype=dtype)
        for level, (maps, scale) in enumerate(zip(features, PYRAMID_SCALES)):
            mine = (levels == level).nonzero()[:, 0]
            alone = roi_align(maps, rois[mine], (5, 4), scale, 2, **options)
            outputs = outputs.index_put((mine,), alone)
        return outputs

    def ours(features):
        return multiscale_roi_align(features, rois, (5, 4), PYRAMID_SCALES, 2, **options)

    assert torch.equal(ours(features), expected(features))
    for mine, theirs in zip(gradients(ours, features), gradients(expected, features)):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("mode", MODES)
def test_levels_without_rois_and_no_rois_at_all(mode):
    features, rois = make_pyramid(), make_pyramid_rois(smallest=300.0)
    op = lambda f, r: multiscale_roi_align(f, r, 3, PYRAMID_SCALES, mode=mode)  # noqa: E731
    grads = gradients(op, features, rois)
    assert not grads[0].any() and not grads[1].any()
    assert grads[2].any() and grads[3].any()
    for none in (rois[:0], [rois[:0, 1:], rois[:0, 1:]]):
        assert op(features, none).shape == (0, 5, 3, 3)
        assert not any(g.any() for g in gradients(op, features, none))


def test_layout_is_kept_and_not_every_map_needs_a_gradient():
    features = [f.to(memory_format=torch.channels_last) for f in make_pyramid()]
    features[1].requires_grad_()
    output = multiscale_roi_align(features, make_pyramid_rois(), 3, PYRAMID_SCALES)
    assert output.is_contiguous(memory_format=torch.channels_last)
    output.sum().backward()
    assert features[1].grad.is_contiguous(memory_format=torch.channels_last)
    assert all(features[i].grad is None for i in (0, 2, 3))


def test_gradcheck():
    features = [f[:1, :1, :6, :7].double().requires_grad_() for f in make_pyramid()]
    rois = make_pyramid_rois(8)
    rois[:, 0] = 0
    op = lambda *maps: multiscale_roi_align(list(maps), rois.double(), (3, 2), PYRAMID_SCALES)  # noqa: E731
    assert torch.autograd.gradcheck(op, tuple(features))
    assert torch.autograd.gradgradcheck(lambda *maps: op(*maps) ** 2, tuple(features))


@pytest.mark.parametrize("mode", MODES)
def test_opcheck_and_compile(mode):
    features = [f.requires_grad_() for f in make_pyramid()]
    rois = make_pyramid_rois(10)
    levels = assign_levels(rois, 2, 5)
    options = (PYRAMID_SCALES, 0, True, MODES.index(mode), 1)
    torch.library.opcheck(
        torch.ops.mrcnn_plugin.roi_align_levels.default, (features, rois, levels, 3, 3, *options)
    )
    output, argmax = torch.ops.mrcnn_plugin.roi_align_levels(features, rois, levels, 3, 3, *options)
    torch.library.opcheck(
        torch.ops.mrcnn_plugin.roi_align_levels_backward.default,
        (
            output.detach(),
            rois,
            levels,
            1,
            argmax,
            *features[1].shape,
            3,
            3,
            PYRAMID_SCALES[1],
            *options[1:],
        ),
    )
    torch._dynamo.reset()
    module = MultiScaleRoIAlign(3, PYRAMID_SCALES, mode=mode)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    assert torch.equal(compiled(features, rois), module(features, rois))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.gpu
def test_cuda_equals_cpu_and_does_not_wait(mode):
    features, rois = make_pyramid(), make_pyramid_rois()
    op = lambda f, r: multiscale_roi_align(f, r, 3, PYRAMID_SCALES, mode=mode)  # noqa: E731
    on_gpu = [f.cuda() for f in features]
    rois_on_gpu = rois.cuda()
    op(on_gpu, rois_on_gpu)
    torch.cuda.set_sync_debug_mode("error")
    try:
        output = op(on_gpu, rois_on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(output.cpu(), op(features, rois), atol=1e-5, rtol=1e-5)
    leaves = [f.requires_grad_() for f in on_gpu]
    grad = torch.ones_like(output)
    theirs = [f.detach().requires_grad_() for f in features]
    expected = torch.autograd.grad(op(theirs, rois), theirs, grad.cpu())
    for mine, cpu in zip(torch.autograd.grad(op(leaves, rois_on_gpu), leaves, grad), expected):
        torch.testing.assert_close(mine.cpu(), cpu, atol=1e-4, rtol=1e-4)


# ---- Refused -------------------------------------------------------------------------------------

PYRAMID, ROIS = make_pyramid(), make_pyramid_rois(4)


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"features": PYRAMID[0]}, TypeError, "list of maps, got Tensor"),
        ({"features": PYRAMID[:3]}, ValueError, "per spatial scale, got 3 maps for 4 scales"),
        ({"features": [*PYRAMID[:3], PYRAMID[3].double()]}, ValueError, "same N, C and dtype"),
        ({"features": [*PYRAMID[:3], PYRAMID[3][:, :2]]}, ValueError, "same N, C and dtype"),
        ({"features": [*PYRAMID[:3], PYRAMID[3].to("meta")]}, ValueError, "cpu and meta"),
        ({"rois": ROIS.half()}, TypeError, "float32"),
        ({"rois": ROIS.clone().requires_grad_()}, ValueError, "detach"),
        ({"spatial_scales": (1 / 4, 1 / 8, 1 / 16, 1 / 24)}, ValueError, "powers of two"),
        ({"spatial_scales": (1 / 32, 1 / 16, 1 / 8, 1 / 4)}, ValueError, "finest map first"),
        ({"spatial_scales": (0, 1, 2, 3)}, ValueError, "finite and positive"),
        ({"canonical_box_size": 0}, ValueError, "canonical_box_size"),
        ({"output_size": 0}, ValueError, "positive"),
        ({"mode": "sum"}, ValueError, "'avg', 'max'"),
    ],
)
def test_rejected(change, error, words):
    arguments = {
        "features": PYRAMID,
        "rois": ROIS,
        "output_size": 3,
        "spatial_scales": PYRAMID_SCALES,
    }
    with pytest.raises(error, match=words):
        multiscale_roi_align(**{**arguments, **change})


def test_batch_index_and_level_out_of_range_are_rejected():
    rois = ROIS.clone()
    rois[2, 0] = 2
    with pytest.raises(RuntimeError, match=r"batch index of rois\[2\] is 2"):
        multiscale_roi_align(PYRAMID, rois, 3, PYRAMID_SCALES)
    for level in (-1, 4):
        levels = torch.tensor([0, 1, level, 3])
        with pytest.raises(RuntimeError, match=rf"level of rois\[2\] is {level}; expected 0 to 3"):
            torch.ops.mrcnn_plugin.roi_align_levels(
                PYRAMID, ROIS, levels, 3, 3, PYRAMID_SCALES, 0, True, MODES.index("avg"), 1
            )


def test_single_level_is_roi_align():
    maps, rois = PYRAMID[0], make_pyramid_rois()
    args = (rois, 3)
    ours = gradients(multiscale_roi_align, [maps], *args, [1 / 4])[0]
    expected = gradient(
        roi_align, maps, *args, 1 / 4,
        grad=torch.randn((len(rois), 5, 3, 3), generator=torch.Generator().manual_seed(7)),
    )  # fmt: skip
    assert torch.equal(ours, expected)
