"""torchvision's ops computed by our kernels: the same answers, everywhere, until undone."""

import copy
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torchvision
from builders import ROOT
from roi_align_cases import SCALE, gradient, make_features, make_rois
from torch.export import Dim

import mrcnn_plugin

FEATURES, ROIS = make_features(6, dtype=torch.float32), make_rois(torch.float32)


def call(features, rois, sampling_ratio=2, aligned=True, size=(3, 4)):
    return torchvision.ops.roi_align(features, rois, size, SCALE, sampling_ratio, aligned)


def both(function, *args):
    """The results of torchvision's kernels and of ours."""
    theirs = function(*args)
    with mrcnn_plugin.accelerate_torchvision():
        return theirs, function(*args)


def error_of(function, *args):
    with pytest.raises(Exception) as error:
        function(*args)
    return type(error.value), str(error.value).splitlines()[0]


# ---- The same answers ----------------------------------------------------------------------------

LAYOUTS = {
    "contiguous": lambda x: x,
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "sliced": lambda x: x.repeat(1, 2, 1, 2)[:, ::2, :, : x.shape[3]].transpose(2, 3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [-1, 0, 2])
def test_roi_align_and_its_gradient(sampling_ratio, aligned, layout):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        features, rois = LAYOUTS[layout](FEATURES.to(dtype)), ROIS.to(dtype)
        strided = torch.stack([rois, rois], 2)[:, :, 0]
        for function in (call, lambda *args: gradient(call, *args)):
            theirs, ours = both(function, features, strided, sampling_ratio, aligned)
            assert theirs.any() and ours.stride() == theirs.stride()
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_gradients_of_any_layout_are_contiguous(layout):
    """Expanded (from a sum) and channels-last gradients, on maps larger than the output."""
    features = make_features(6, dtype=torch.float64).repeat(1, 1, 4, 4)
    upstream = LAYOUTS[layout](torch.randn(2, 6, 3, 4, dtype=torch.float64))
    for grad in (upstream, torch.ones(()).double().expand(2, 6, 3, 4)):
        theirs, ours = both(
            lambda g: gradient(call, features, make_rois()[:2], grad=g),
            grad,
        )
        assert ours.is_contiguous() and theirs.is_contiguous()
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape, count", [((2, 3, 8, 8), 0), ((0, 3, 8, 8), 0), ((2, 0, 8, 8), 5)])
def test_empty_inputs(shape, count):
    for function in (call, lambda *args: gradient(call, *args)):
        theirs, ours = both(function, torch.randn(shape), ROIS[:count])
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    theirs, ours = both(torchvision.ops.nms, torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert torch.equal(ours, theirs) and ours.dtype == torch.int64


def test_autocast_keeps_the_type_of_the_features():
    with torch.autocast("cpu", torch.bfloat16):
        theirs, ours = both(call, FEATURES.bfloat16(), ROIS.bfloat16())
        assert ours.dtype == theirs.dtype == torch.bfloat16
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)
        boxes, scores = ROIS[:, 1:].bfloat16(), ROIS[:, 1].bfloat16()
        theirs, ours = both(torchvision.ops.nms, boxes, scores, 0.5)
        assert torch.equal(ours, theirs) and len(ours) > 2


def test_quantized_maps_stay_torchvisions():
    x = torch.quantize_per_tensor(FEATURES[:1], 0.1, 10, torch.quint8)
    rois = torch.quantize_per_tensor(ROIS[::2].clamp(min=0), 0.1, 0, torch.quint8)
    theirs, ours = both(call, x, rois)
    assert torch.equal(ours.int_repr(), theirs.int_repr())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nms_on_equal_scores_and_strange_boxes(dtype):
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(400, 4, generator=generator, dtype=torch.float64) * 50
    boxes[:, 2:] += boxes[:, :2]
    boxes[::31], boxes[1::37, 2], boxes[2::41, 0] = float("nan"), float("inf"), 1e30
    scores = torch.randint(0, 5, (400,), generator=generator).double()
    scores[::29] = float("nan")
    inputs = torch.stack([boxes, boxes], 2)[:, :, 0].to(dtype), scores.to(dtype)
    kept = []
    for threshold in (0.3, 0.5, 0.7):
        theirs, ours = both(torchvision.ops.nms, *inputs, threshold)
        assert torch.equal(ours, theirs)
        kept.append(len(ours))
    assert 0 < kept[0] < kept[2] < 400


@pytest.mark.parametrize(
    "function, args",
    [
        (call, (FEATURES, ROIS.double())),
        (call, (FEATURES.int(), ROIS.int())),
        (call, (FEATURES, ROIS, 2, True, (-1, 2))),
        (torchvision.ops.nms, (torch.rand(3, 4).half(), torch.rand(3).half(), 0.5)),
        (torchvision.ops.nms, (torch.rand(3, 4), torch.rand(3).double(), 0.5)),
    ],
)
def test_errors_that_stay_torchvisions(function, args):
    theirs = error_of(function, *args)
    with mrcnn_plugin.accelerate_torchvision():
        assert error_of(function, *args) == theirs


def test_second_derivatives_raise_torchvisions_error():
    def twice():
        features = FEATURES.clone().requires_grad_()
        (grad,) = torch.autograd.grad(
            call(features, ROIS).square().sum(), features, None, True, True
        )
        grad.sum().backward()

    theirs = error_of(twice)
    assert "double backwards on roi_align not supported" in theirs[1]
    with mrcnn_plugin.accelerate_torchvision():
        assert error_of(twice) == theirs


def test_torchvisions_mask_rcnn():
    model = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=4, min_size=96, max_size=128,
        rpn_post_nms_top_n_test=30, rpn_pre_nms_top_n_test=200, box_score_thresh=0.0,
        box_detections_per_img=10,
    ).eval()  # fmt: skip
    images = [torch.rand(3, 96, 128), torch.rand(3, 120, 100)]
    with torch.no_grad():
        for theirs, ours in zip(*both(model, images)):
            assert len(theirs["scores"]) > 0
            for field in theirs:
                torch.testing.assert_close(ours[field], theirs[field], rtol=1e-4, atol=1e-3)


# ---- Other answers: docs/mixing.md ---------------------------------------------------------------


def test_half_types_are_computed_in_float32():
    """torchvision rounds coordinates to half and has no bfloat16. Boxes arrive rounded in both."""
    for dtype in (torch.float16, torch.bfloat16):
        features, rois = FEATURES.to(dtype), ROIS.to(dtype)
        exact = call(features.double(), rois.double())
        exact_gradient = gradient(call, features.double(), rois.double())
        with mrcnn_plugin.accelerate_torchvision():
            assert torch.equal(call(features, rois), exact.float().to(dtype))
            assert torch.allclose(
                gradient(call, features, rois).double(), exact_gradient, 2e-2, 1e-2
            )
    far = torch.tensor([[0, 1281.0, 0, 1300.0, 8.0]]).half()
    ramp = torch.arange(1400.0).half().expand(1, 1, 8, 1400)
    pool = lambda x, rois: torchvision.ops.roi_align(x, rois, (1, 7), 1.0, 2, True)  # noqa: E731
    exact = pool(ramp.double(), far.double()).half()
    theirs, ours = both(pool, ramp, far)
    assert torch.equal(ours, exact) and not torch.equal(theirs, exact)
    with pytest.raises(NotImplementedError, match="BFloat16"):
        call(FEATURES.bfloat16(), ROIS.bfloat16())


def test_boxes_for_which_torchvision_crashes():
    """Called in this process only with our kernels."""
    broken = ROIS[:3].clone()
    broken[1, 3] = float("nan")
    with mrcnn_plugin.accelerate_torchvision():
        pooled, grad = call(FEATURES, broken), gradient(call, FEATURES, broken)
        assert not pooled[1].any() and torch.equal(pooled[::2], call(FEATURES, ROIS[:3:2]))
        assert grad.isfinite().all()
        for index in (2.0, -1.0, 0.5, float("nan")):
            broken[1, 0] = index
            with pytest.raises(RuntimeError, match=r"batch index of rois\[1\] is"):
                call(FEATURES, broken)
        with pytest.raises(RuntimeError, match="spatial_scale must be finite and positive"):
            torchvision.ops.roi_align(FEATURES, ROIS, 2, float("nan"))
        assert call(FEATURES[:, :, :0], ROIS).shape == (16, 6, 3, 4)


# ---- Every form of a program ---------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit")
@pytest.mark.parametrize("form", ["script", "trace", "export", "compile"])
def test_programs_made_before_are_accelerated_and_undone(form):
    module = torchvision.ops.RoIAlign((3, 4), SCALE, 2, aligned=True)
    shapes = ({}, {0: Dim("rois", min=2, max=99)})
    program = {
        "script": lambda: torch.jit.script(module),
        "trace": lambda: torch.jit.trace(module, (FEATURES, ROIS)),
        "export": lambda: torch.export.export(
            module, (FEATURES, ROIS), dynamic_shapes=shapes
        ).module(),
        "compile": lambda: torch.compile(module, backend="aot_eager", fullgraph=True),
    }[form]()
    expected = program(FEATURES, ROIS)
    bad = ROIS.clone()
    bad[0, 0] = 7
    with mrcnn_plugin.accelerate_torchvision():
        torch.testing.assert_close(program(FEATURES, ROIS), expected, rtol=1e-5, atol=1e-5)
        if form == "compile":
            torch.testing.assert_close(
                gradient(program, FEATURES, ROIS), gradient(module, FEATURES, ROIS)
            )
        with pytest.raises(Exception, match=r"batch index of rois\[0\] is 7"):
            program(FEATURES, bad)
    assert torch.equal(program(FEATURES, ROIS), expected)


@pytest.mark.slow
def test_inductor_on_channels_last_maps():
    """Inductor asserts the strides that torchvision's shape function promises."""

    def pool(x, rois):
        return call(x.relu(), rois).exp()

    features = LAYOUTS["channels-last"](FEATURES)
    theirs, ours = both(torch.compile(pool, fullgraph=True), features, ROIS)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    theirs, ours = both(lambda: gradient(torch.compile(pool, fullgraph=True), features, ROIS))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# ---- Registration --------------------------------------------------------------------------------


def is_accelerated():
    """torchvision's kernel has no bfloat16."""
    try:
        call(FEATURES.bfloat16(), ROIS.bfloat16())
    except NotImplementedError:
        return False
    return True


def test_undo_gives_torchvisions_results():
    features, rois = FEATURES.half(), ROIS.half()  # a type in which theirs and ours differ
    functions = (lambda: call(features, rois), lambda: gradient(call, features, rois))
    for function in functions:
        theirs, ours = both(function)
        assert torch.equal(function(), theirs) and not torch.equal(ours, theirs)


def test_only_the_cpu_key_changes():
    name = "torchvision::roi_align"
    keys = [f"Autocast{device}" for device in ("CPU", "CUDA")] + ["QuantizedCPU", "Meta"]
    keys += ["CUDA"] if torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA") else []
    with mrcnn_plugin.accelerate_torchvision():
        kernels = {key: str(torch.library.get_kernel(name, key)) for key in [*keys, "CPU"]}
    assert "accelerate_torchvision.py" in kernels.pop("CPU")
    assert all("torchvision/" in kernel for kernel in kernels.values()), kernels


def test_the_last_undo_counts():
    first, second = (mrcnn_plugin.accelerate_torchvision() for _ in range(2))
    with mrcnn_plugin.accelerate_torchvision():
        first.undo()
        first.undo()
        assert is_accelerated()
    assert is_accelerated()
    second.undo()
    assert not is_accelerated()
    first.undo()  # does not count against a later acceleration
    with mrcnn_plugin.accelerate_torchvision() as third:
        second.undo()
        copy.deepcopy(third).undo()  # as in a copy of a model that holds it
        pickle.loads(pickle.dumps(third)).undo()
        assert is_accelerated()
    assert not is_accelerated()
    with pytest.raises(RuntimeError, match=r"has been undone\. Call mrcnn_plugin.accelerate"):
        third.__enter__()


def test_an_error_in_the_block_undoes_it_too():
    with pytest.raises(KeyError), mrcnn_plugin.accelerate_torchvision():
        raise KeyError
    assert not is_accelerated()


def test_threads_may_start_and_undo_it_while_others_call():
    """A kernel that were removed here would be called after it has been freed."""
    mrcnn_plugin.accelerate_torchvision().undo()
    scripted = torch.jit.script(torchvision.ops.RoIAlign((3, 4), SCALE, 2, aligned=True))
    expected = call(FEATURES, ROIS)

    def work(index):
        for _ in range(300):
            if index % 2:
                with mrcnn_plugin.accelerate_torchvision():
                    time.sleep(1e-4)
            else:
                for function in (call, scripted):
                    torch.testing.assert_close(function(FEATURES, ROIS), expected)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not is_accelerated()


def test_the_first_call():
    """Its errors leave nothing behind, and it does not warn."""
    code = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda n, *a: None if n == 'detectron2' else find(n, *a)
import mrcnn_plugin, torch

def fails():
    try:
        mrcnn_plugin.accelerate_torchvision()
    except RuntimeError as error:
        print(error)
        return error

fails()
import torchvision
dump = lambda: [torch._C._dispatch_dump(f"torchvision::{op}") for op in ("roi_align", "nms")]
before = dump()
other = torch.library.Library("torchvision", "IMPL", "CPU")
other.impl("nms", lambda boxes, scores, threshold: None)
kept = fails()
del other
assert dump() == before
with mrcnn_plugin.accelerate_torchvision():
    assert dump() != before
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True
    )
    assert "has not been imported. Write `import torchvision`" in done.stdout
    assert "kernel of torchvision::nms has already been replaced" in done.stdout
    assert "accelerate_torchvision.py" not in done.stderr
