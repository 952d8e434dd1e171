"""RoIAlign on the CPU has the same result for any instruction set, slab, window and threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from roi_align_cases import MODES, gradient, random_rois

from mrcnn_plugin.layers.nms import nms
from mrcnn_plugin.layers.roi_align import roi_align

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parents[1]
ISAS = ("baseline", "avx2", "avx512")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def large_map(channels, dtype=torch.float64, batch=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn((batch, channels, 37, 70), generator=generator).to(dtype)


# ---- Instruction sets ----------------------------------------------------------------------------


def all_results():
    """Return the output and gradient for every dtype, mode and slab width, in a fixed order, and
    what nms keeps."""
    results = []
    rois = random_rois(40, 1, 37, 70).float()
    for dtype in DTYPES:
        for mode in MODES:
            for channels in (3, 45):
                features = large_map(channels, dtype)
                results.append(roi_align(features, rois, (5, 4), 1.0, mode=mode))
                results.append(gradient(roi_align, features, rois, (5, 4), 1.0, mode=mode))
    boxes = random_rois(900, 2, 37, 70).float()[:, 1:]
    return [*results, nms(boxes, boxes[:, 0] % 1, 0.2).double()]


def run_with_isa(isa, code):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "MRCNN_PLUGIN_ISA": isa,
            "PYTHONPATH": ":".join(map(str, (ROOT, TESTS.parent, TESTS))),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("isa", ISAS)
def test_instruction_sets_agree(isa, tmp_path):
    code = f"""
import torch
from test_roi_align_kernels import all_results
print(torch.ops.mrcnn_plugin.cpu_isa())
torch.save(all_results(), {str(tmp_path / "results.pt")!r})
"""
    process = run_with_isa(isa, code)
    if "not more than this processor" in process.stderr:
        assert ISAS.index(isa) > ISAS.index(torch.ops.mrcnn_plugin.cpu_isa())
        pytest.skip(
            f"this processor or build has no {isa}: run it on x86-64 with {isa}, built by GCC"
        )
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == [isa]
    results = torch.load(tmp_path / "results.pt")
    for theirs, ours in zip(results, all_results(), strict=True):
        # Sums differ in their last bits with and without fused multiply-adds, and halves may round
        # up or down.
        limit = {torch.float64: 1e-13, torch.float32: 1e-6}.get(ours.dtype)
        limit = limit or torch.finfo(ours.dtype).eps
        torch.testing.assert_close(theirs, ours, atol=limit, rtol=limit)


@pytest.mark.parametrize("isa", ["sse9", "AVX2"])
def test_an_unknown_instruction_set_is_an_error(isa):
    process = run_with_isa(isa, "import mrcnn_plugin, torch; torch.ops.mrcnn_plugin.cpu_isa()")
    assert process.returncode == 1
    assert "MRCNN_PLUGIN_ISA must be baseline, avx2 or avx512" in process.stderr
    assert repr(isa) in process.stderr


# ---- Slabs and windows ---------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 8, 9, 31, 32, 33, 70])
@pytest.mark.parametrize("output_size", [(7, 7), (1, 1), (5, 3), (4, 4)])
def test_any_number_of_channels_equals_torchvision(channels, output_size):
    features, rois = large_map(channels), random_rois(12, 2, 37, 70)
    args = (features, rois, output_size, 1.0, 0)
    theirs = torchvision.ops.roi_align(*args, aligned=True)
    torch.testing.assert_close(roi_align(*args), theirs, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        gradient(roi_align, *args),
        gradient(torchvision.ops.roi_align, *args, aligned=True),
        atol=1e-11,
        rtol=1e-11,
    )


BOXES = {
    "one pixel": (30.2, 11.1, 30.9, 11.8),
    "left": (-3.0, 8.0, 9.0, 20.0),
    "right": (60.5, 4.0, 77.0, 15.5),
    "a row": (-9.0, 17.3, 90.0, 18.9),
    "a column": (33.3, -9.0, 34.1, 60.0),
    "all": (0.0, 0.0, 70.0, 37.0),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_only_the_window_of_the_rois_is_read_and_the_rest_has_no_gradient(mode, box, channels_last):
    """A single RoI has only its window repacked; with a RoI of the whole map, all of it is."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    features = large_map(40, torch.float32).to(memory_format=layout)
    rois = torch.tensor([[1.0, *box], [1.0, 0.0, 0.0, 70.0, 37.0]])
    single = roi_align(features, rois[:1], 5, mode=mode)
    assert torch.equal(single, roi_align(features, rois, 5, mode=mode)[:1])

    grad = torch.randn(2, 40, 5, 5, generator=torch.Generator().manual_seed(1))
    grad[1] = 0
    grad = grad.to(memory_format=layout)
    back = gradient(roi_align, features, rois[:1], 5, mode=mode, grad=grad[:1])
    both = gradient(roi_align, features, rois, 5, mode=mode, grad=grad)
    torch.testing.assert_close(back, both, atol=1e-6, rtol=1e-6)
    assert not back[0].any() and back.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_converted_as_torch_converts_them(dtype):
    """Pools every value of the dtype as one pixel per bin, then averages that are rounded."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    features = bits.view(dtype).view(1, 64, 32, 32)
    x, y = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="xy")
    rois = torch.stack([torch.zeros(1024), x.flatten(), y.flatten(), x.flatten() + 1,
                        y.flatten() + 1], 1)  # fmt: skip
    output = roi_align(features, rois, 1, sampling_ratio=1).view(32, 32, 64).permute(2, 0, 1)
    assert torch.equal(output[None].nan_to_num(7), features.nan_to_num(7))

    # A quarter of a pixel further, each bin is an average of two pixels, rounded from float32.
    rois[:, [1, 3]] += 0.25
    exact = features.float()
    expected = 0.75 * exact[..., :-1] + 0.25 * exact[..., 1:]
    output = roi_align(features, rois, 1, sampling_ratio=1).view(32, 32, 64).permute(2, 0, 1)
    assert torch.equal(output[None, ..., :-1].nan_to_num(7), expected.to(dtype).nan_to_num(7))


# ---- Threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 40])
def test_more_threads_than_slabs_divide_the_rois(mode, channels):
    features, rois = large_map(channels, torch.float32), random_rois(500, 3, 37, 70).float()
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5, 16):
            torch.set_num_threads(count)
            output = roi_align(features, rois, 7, mode=mode)
            results.append((output, gradient(roi_align, features, rois, 7, mode=mode)))
    finally:
        torch.set_num_threads(threads)
    for output, back in results[1:]:
        assert torch.equal(output, results[0][0])
        assert torch.equal(back, results[0][1])


# ---- The benchmark -------------------------------------------------------------------------------


def test_the_benchmark_runs():
    script = ROOT / "benchmarks/roi_align.py"
    process = subprocess.run(
        [sys.executable, script, "--quick"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    lines = [line for line in process.stdout.splitlines() if line.startswith("|")]
    assert len(lines) == 2 * 2 + 2 * (7 + 4)  # two headers; forward and backward of each case
    assert all(line.endswith("|") and line.count("|") == 6 for line in lines)
