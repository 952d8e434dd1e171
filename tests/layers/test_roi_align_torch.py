"""RoIAlign among PyTorch's transforms, compilers, threads and processes.

opcheck, gradcheck, torch.compile, autocast, determinism and double backward are in
test_roi_align.py.
"""

import copy
import io
import os
import pickle
import re
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from builders import ROOT
from roi_align_cases import MODES, SCALE, gradient, make_features, make_rois
from torch.export import Dim
from torch.utils.data import DataLoader, Dataset

from mrcnn_plugin.layers.multiscale_roi_align import MultiScaleRoIAlign, multiscale_roi_align
from mrcnn_plugin.layers.roi_align import RoIAlign, roi_align

FEATURES, ROIS = make_features(40, dtype=torch.float32), make_rois(torch.float32)
SOURCE = Path(sys.modules[roi_align.__module__].__file__)
LIBRARY = SOURCE.parents[1] / "_C.abi3.so"
OTHER_FEATURES = torch.randn(2, 40, 17, 21, generator=torch.Generator().manual_seed(3))


def make_module(mode):
    return RoIAlign((5, 4), SCALE, 2, mode=mode, bin_stride=2)


def assert_same(transformed, module, *args):
    """Forward and backward are bit-identical."""
    assert torch.equal(transformed(*args), module(*args))
    assert torch.equal(gradient(transformed, *args), gradient(module, *args))


# ---- Export --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("mode", MODES)
def test_trace_generalises_and_does_not_warn(mode):
    module = make_module(mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(module, (FEATURES, ROIS))
        boxes = [ROIS[:3, 1:], ROIS[:5, 1:]]
        listed = torch.jit.trace(lambda f, a, b: module(f, [a, b]), (FEATURES, *boxes))
    for features in (FEATURES, OTHER_FEATURES):
        for count in (16, 5, 0):
            assert_same(traced, module, features, ROIS[:count])
        assert torch.equal(listed(features, *boxes[::-1]), module(features, boxes[::-1]))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("mode", MODES)
def test_script_saves_and_loads(mode, tmp_path):
    module = make_module(mode)
    file = str(tmp_path / "roi_align.pt")
    torch.jit.save(torch.jit.script(torch.nn.ModuleList([module])[0]), file)
    scripted = torch.jit.load(file)
    assert_same(scripted, module, FEATURES, ROIS)
    assert_same(scripted, module, OTHER_FEATURES, ROIS[:5])
    for boxes in ([ROIS[:3, 1:], ROIS[:5, 1:]], [ROIS[:0, 1:], ROIS[:5, 1:]]):
        assert_same(scripted, module, FEATURES, boxes)
    for rois in (ROIS[:, :4], ROIS.long(), ROIS + 7, [ROIS[:3, 2:], ROIS[:5, 2:]]):
        with pytest.raises(RuntimeError):  # of the op, without the checks of `roi_align`
            scripted(FEATURES, rois)

    inputs, output = str(tmp_path / "inputs.pt"), str(tmp_path / "output.pt")
    torch.save((FEATURES, ROIS), inputs)
    code = (
        f"import torch; torch.ops.load_library({str(LIBRARY)!r});"
        f"torch.save(torch.jit.load({file!r})(*torch.load({inputs!r})), {output!r})"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    assert torch.equal(torch.load(output), module(FEATURES, ROIS))


def test_symbolic_trace():
    """As torchvision's RoIAlign, ours is one node; so is a call of the function."""
    module = make_module("max")
    pyramid = MultiScaleRoIAlign(3, [1 / 4, 1 / 8])
    maps = [FEATURES, OTHER_FEATURES]
    for call, inputs in (
        (module, (FEATURES, ROIS)),
        (module, (FEATURES, [ROIS[:3, 1:], ROIS[:5, 1:]])),
        (lambda f, rois: roi_align(f, rois, 7), (FEATURES, ROIS)),
        (pyramid, (maps, ROIS)),
    ):
        traced = torch.fx.symbolic_trace(call)
        assert len(traced.graph.nodes) == 4  # two inputs, the call, the output
        loaded = pickle.loads(pickle.dumps(traced))
        for program in (traced, loaded):
            assert torch.equal(program(*inputs), call(*inputs))


@pytest.mark.parametrize("mode", MODES)
def test_export_with_any_number_of_rois(mode):
    module = make_module(mode)
    shapes = ({0: Dim("N"), 2: Dim("H"), 3: Dim("W")}, {0: Dim("R")})
    exported = torch.export.export(module, (FEATURES, ROIS), dynamic_shapes=shapes).module()
    for features in (FEATURES, OTHER_FEATURES):
        for count in (16, 5, 0):
            assert_same(exported, module, features, ROIS[:count])


@pytest.mark.slow
def test_compiles_to_native_code_inside_a_model():
    """Inductor, with code before and after; other backends are in test_roi_align.py."""
    torch._dynamo.reset()
    module = make_module("max")
    model = lambda f, r: module(f * 2 + 1, r).relu()  # noqa: E731
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for count in (16, 7):
        torch.testing.assert_close(compiled(FEATURES, ROIS[:count]), model(FEATURES, ROIS[:count]))
        torch.testing.assert_close(
            gradient(compiled, FEATURES, ROIS[:count]), gradient(model, FEATURES, ROIS[:count])
        )


def test_module_is_copied_and_pickled_by_its_options():
    module = make_module("max")
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for other in (copy.deepcopy(module), torch.load(file, weights_only=False)):
        assert_same(other, module, FEATURES, ROIS)
    assert not module.state_dict()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_python_of_the_docs_runs(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript", reason="pip install 'mrcnn_plugin[export]'")
    monkeypatch.chdir(tmp_path)
    document, names = (ROOT / "docs/roi_align.md").read_text(), {}
    for block in re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL):
        exec(block, names)
    assert names["pooled"].shape == (1, 256, 7, 7)
    assert (tmp_path / "roi_align.onnx").exists()


# ---- Transforms ----------------------------------------------------------------------------------


def stacked(op, features, rois, *levels):
    return torch.stack([op(*sample) for sample in zip(features, rois, *levels)])


@pytest.mark.filterwarnings("error:There is a performance drop")  # torch's fallback is a loop
@pytest.mark.parametrize("mode", MODES)
def test_vmap_equals_a_loop(mode):
    """Over features (in any dimension), RoIs, both, and nested; the gradients too."""
    features = torch.stack([FEATURES, FEATURES + 1, -FEATURES]).requires_grad_()
    rois = torch.stack([ROIS, ROIS.roll(1, 0), ROIS.flip(0)])
    op = lambda f, r: roi_align(f, r, 3, SCALE, 2, mode=mode)  # noqa: E731
    same_rois, same_features = ROIS.expand(3, *ROIS.shape), FEATURES.expand(3, *FEATURES.shape)
    of_both = torch.vmap(op)(features, rois)
    expected = stacked(op, features, rois)
    assert torch.equal(of_both, expected)
    grads = torch.randn_like(of_both)
    assert torch.equal(
        *(torch.autograd.grad(result, features, grads)[0] for result in (of_both, expected))
    )
    assert torch.equal(
        torch.vmap(op, (2, None))(features.movedim(0, 2), ROIS), stacked(op, features, same_rois)
    )
    assert torch.equal(
        torch.vmap(op, (None, 1))(FEATURES, rois.movedim(0, 1)), stacked(op, same_features, rois)
    )
    nested = torch.vmap(torch.vmap(op, (None, 0)), (0, None))(features, rois)
    assert torch.equal(nested[1, 2], op(features[1], rois[2]))


@pytest.mark.filterwarnings("error:There is a performance drop")
@pytest.mark.parametrize("mode", MODES)
def test_vmap_of_levels_and_of_gradients_equals_a_loop(mode):
    pyramid = [FEATURES.clone().requires_grad_(), FEATURES[:, :, ::2, ::2].clone().requires_grad_()]
    rois = torch.stack([ROIS, ROIS.flip(0)])
    op = lambda r, *maps: multiscale_roi_align(  # noqa: E731
        maps, r, 3, [0.5, 0.25], 2, mode=mode, canonical_box_size=20, canonical_level=2
    )
    more = [torch.stack([maps, maps + 1]) for maps in pyramid]
    assert torch.equal(torch.vmap(op)(rois, *more), stacked(op, rois, *more))
    output = torch.vmap(op, (0, None, None))(rois, *pyramid)
    assert torch.equal(output, torch.stack([op(r, *pyramid) for r in rois]))
    output = op(ROIS, *pyramid)
    vectors = torch.randn(4, *output.shape)
    gradients = lambda v, **batch: torch.autograd.grad(  # noqa: E731
        output, pyramid, v, retain_graph=True, **batch
    )
    batched = gradients(vectors, is_grads_batched=True)
    for k, vector in enumerate(vectors):
        assert all(torch.equal(b[k], g) for b, g in zip(batched, gradients(vector)))


@pytest.mark.parametrize("index", [-1.0, 2.0, 0.5, float("nan")])
def test_vmap_never_reads_the_images_of_another_sample(index):
    """Index 2 of 2 images would be the first image of the next sample."""
    features, rois = FEATURES.expand(3, *FEATURES.shape), ROIS.repeat(3, 1, 1)
    rois[1, 4, 0] = index
    with pytest.raises(RuntimeError, match=r"batch index of rois\[20\]"):
        torch.vmap(lambda f, r: roi_align(f, r, 3))(features, rois)


@pytest.mark.parametrize("mode", MODES)
def test_forward_mode_is_rejected(mode):
    """torch itself would answer with a tangent of zeros."""
    op = lambda f: roi_align(f, ROIS, 3, mode=mode)  # noqa: E731
    of_levels = lambda f: multiscale_roi_align([f], ROIS, 3, [SCALE], mode=mode)  # noqa: E731
    of_boxes = lambda r: roi_align(FEATURES, r, 3, mode=mode)  # noqa: E731
    for function, at in ((op, FEATURES), (of_levels, FEATURES), (of_boxes, ROIS)):
        with pytest.raises(RuntimeError, match="no forward-mode derivative"):
            torch.func.jvp(function, (at,), (at,))
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(RuntimeError, match="no forward-mode derivative"),
    ):
        op(torch.autograd.forward_ad.make_dual(FEATURES, FEATURES))


def test_functorch_gradients_are_rejected():
    """A limit of ops whose autograd is registered in Python; torch.autograd.grad is the way."""
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda f: roi_align(f, ROIS, 3).sum())(FEATURES)


@pytest.mark.parametrize("mode", MODES)
def test_activation_checkpointing(mode):
    module = make_module(mode)
    checkpointed = lambda f, r: torch.utils.checkpoint.checkpoint(  # noqa: E731
        module, f, r, use_reentrant=False
    )
    assert torch.equal(gradient(checkpointed, FEATURES, ROIS), gradient(module, FEATURES, ROIS))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_of_a_model_keeps_boxes_to_the_pixel(mode, dtype):
    """Half features from a convolution, boxes thousands of pixels out, backward under the same."""
    convolution = torch.nn.Conv2d(3, 4, 1)
    image = torch.randn(1, 3, 60, 90)
    rois = torch.tensor([[0, 1201.3, 803.7, 1377.1, 911.9]])
    with torch.autocast("cpu", dtype):
        features = convolution(image)
        output = roi_align(features, rois, 7, 1 / 16, 2, mode=mode)
    assert features.dtype == output.dtype == dtype
    expected = roi_align(features.double(), rois.double(), 7, 1 / 16, 2, mode=mode)
    torch.testing.assert_close(output.double(), expected, atol=1e-2, rtol=1e-2)
    output.float().sum().backward()
    assert convolution.weight.grad.isfinite().all() and convolution.weight.grad.any()


@pytest.mark.parametrize("mode", MODES)
def test_deterministic_algorithms_raise_no_alert(mode):
    torch.use_deterministic_algorithms(True)  # fills new tensors with NaN too: none may show
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            results = [
                (roi_align(FEATURES, ROIS, 7, SCALE, mode=mode),
                 gradient(roi_align, FEATURES, ROIS, 7, SCALE, mode=mode))
                for _ in range(20)
            ]  # fmt: skip
    finally:
        torch.use_deterministic_algorithms(False)
    for output, grad in results:
        assert torch.equal(output, results[0][0]) and torch.equal(grad, results[0][1])
        assert output.isfinite().all() and grad.isfinite().all()


# ---- Threads and processes -----------------------------------------------------------------------


def test_eight_threads_at_once(record_property):
    jobs = [(FEATURES + k, ROIS.roll(k, 0), mode) for k in range(4) for mode in MODES]

    def work(features, rois, mode):
        output = roi_align(features, rois, 7, SCALE, mode=mode)
        return output, gradient(roi_align, features, rois, 7, SCALE, mode=mode)

    expected, results = [work(*job) for job in jobs], [[] for _ in jobs]
    start = threading.Barrier(len(jobs))

    def repeat(k):
        start.wait()
        results[k] = [work(*jobs[k]) for _ in range(10)]

    threads = [threading.Thread(target=repeat, args=(k,), daemon=True) for k in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for (output, grad), got in zip(expected, results):
        assert len(got) == 10
        assert all(torch.equal(o, output) and torch.equal(g, grad) for o, g in got)
    record_property("cases", 10 * len(jobs))


class Crops(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, k):
        return roi_align(FEATURES + k, ROIS, 3, SCALE, 2, mode=MODES[k % 2])


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_dataloader_workers(context):
    crops = Crops()
    expected = torch.stack([crops[k] for k in range(8)])  # the parent has used its threads
    loader = DataLoader(
        crops, batch_size=2, num_workers=2, multiprocessing_context=context, timeout=100
    )
    assert torch.equal(torch.cat(list(loader)), expected)


def in_child(work, seconds=60):
    """work() in a fork of this process, which has used the op on two threads; True if it returns
    True there."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        roi_align(OTHER_FEATURES, ROIS.repeat(40, 1), 7)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads and fork
            child = os.fork()
        if child == 0:
            os._exit(0 if work() else 1)
    finally:
        torch.set_num_threads(threads)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status == 0
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork: run it on Linux")
@pytest.mark.parametrize("mode", MODES)
def test_after_fork(mode):
    """One thread there, as in torch's own workers: GNU OpenMP's threads do not survive a fork."""
    args = (OTHER_FEATURES, ROIS.repeat(40, 1), 7)
    expected = roi_align(*args, mode=mode)

    def work():
        torch.set_num_threads(1)
        return torch.equal(roi_align(*args, mode=mode), expected)

    assert in_child(work)
