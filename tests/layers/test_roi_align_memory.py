"""The memory of RoIAlign on the CPU: its results are ordinary tensors, and it needs little else."""

import copy
import os
import platform
import subprocess
import sys
import time

import pytest
import torch
from builders import ROOT
from roi_align_cases import MODES
from torch.utils.data import DataLoader, Dataset

from mrcnn_plugin.layers.roi_align import roi_align

MEGABYTE = 1 << 20
CHANNELS = 1024  # 7 x 7 bins of this many float32 channels are 0.19 MiB per RoI
LARGE = 40  # MiB: more than kLargeResult in csrc/cpu/passes.h
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc: run it on Linux")


def pool(megabytes, value=1.0, channels_last=False):
    """Return a result of at least this size in which every element is `value`."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    features = torch.full((1, CHANNELS, 8, 8), float(value)).to(memory_format=layout)
    count = -(-megabytes * MEGABYTE // (4 * CHANNELS * 49))
    rois = torch.tensor([[0.0, 1, 1, 7, 7]]).repeat(count, 1)
    return roi_align(features, rois, 7)


def run(code):
    """Run `code` in a new process and return what it prints."""
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


# ---- Results -------------------------------------------------------------------------------------


@pytest.mark.parametrize("megabytes", [1, LARGE])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_result_is_an_ordinary_tensor(megabytes, channels_last, tmp_path):
    result = pool(megabytes, 3, channels_last)
    assert result.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert result.data_ptr() % 64 == 0
    assert result.untyped_storage().nbytes() == 4 * result.numel()
    torch.save(result, tmp_path / "result.pt")
    others = (torch.load(tmp_path / "result.pt"), copy.deepcopy(result), result.share_memory_())
    assert all((other == 3).all() for other in others)
    assert result.is_shared()


@pytest.mark.parametrize("megabytes", [1, LARGE])
def test_a_result_can_be_resized(megabytes):
    rois = len(pool(megabytes))
    result = pool(megabytes, 3).resize_(2 * rois, CHANNELS, 7, 7)
    assert result.shape[0] == 2 * rois
    assert (result[:rois] == 3).all()


def test_large_gradients_are_right():
    features = torch.ones(1, 64, 400, 400, requires_grad=True)  # 41 MB
    rois = torch.tensor([[0.0, 0, 0, 400, 400]])
    roi_align(features, rois, 1, sampling_ratio=1).sum().backward()
    assert features.grad.sum() == 64  # the weights of a sample sum to one in each channel
    assert features.grad.resize_(1, 64, 500, 400).shape[2] == 500


class Pooled(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return pool(LARGE, float(i))


def test_workers_send_large_results():
    pool(LARGE)
    loader = DataLoader(
        Pooled(), batch_size=None, num_workers=2, worker_init_fn=lambda _: torch.set_num_threads(1)
    )
    assert all((result == i).all() for i, result in enumerate(loader))


# ---- Repeated calls ------------------------------------------------------------------------------

CALLS = 100_000  # of a forward and its backward


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="reads mallinfo2: run it with glibc")
@pytest.mark.parametrize("op", ["roi_align", "roi_align_levels"])
def test_repeated_calls_do_not_use_more_and_more_memory(op, record_property):
    """The ops are called directly, because autograd would take most of the time."""
    calls = CALLS // 2
    printed = run(f"""
import ctypes, torch, mrcnn_plugin

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Info
torch.set_num_threads(1)
ops, rois = torch.ops.mrcnn_plugin, torch.tensor([[0.0, 0, 0, 4, 4]])
features, levels = torch.ones(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64)

def roi_align(mode):
    options = 1, 1, 1.0, 2, True, mode, 1
    output, argmax = ops.roi_align(features, rois, *options)
    ops.roi_align_backward(output, rois, argmax, 1, 1, 4, 4, *options)

def roi_align_levels(mode):
    options = 2, True, mode, 1
    output, argmax = ops.roi_align_levels([features], rois, levels, 1, 1, [1.0], *options)
    ops.roi_align_levels_backward(
        output, rois, levels, 0, argmax, 1, 1, 4, 4, 1, 1, 1.0, *options
    )

def used_after(calls):
    for i in range(calls):
        {op}(i % 2)
    return mallinfo2().uordblks

print(used_after(1000) - used_after({calls}))
""")
    growth = -int(printed)
    record_property("growth", growth)
    record_property("cases", calls)
    assert growth < calls  # bytes: a leak of one per call would show


# ---- Limits --------------------------------------------------------------------------------------


def test_a_size_that_overflows_is_an_error_and_not_a_crash():
    for size in ((2**24, 2**38 + 1), (2**31, 2**31), (2**20, 2**20)):
        with pytest.raises(RuntimeError):
            roi_align(torch.zeros(1, 1, 3, 3), torch.tensor([[0.0, 0, 0, 2, 2]]), size)


@needs_linux
def test_a_result_larger_than_memory_is_an_error_and_bad_rois_are_found_first():
    printed = run("""
import resource, torch
from pathlib import Path
from mrcnn_plugin.layers.roi_align import roi_align

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20),) * 2)
rois = torch.tensor([[0.0, 1, 1, 7, 7]]).repeat(5000, 1)  # 14 x 14 bins of these have 3.8 GB
for index in (0.0, 1.0):
    rois[-1, 0] = index
    try:
        roi_align(torch.zeros(1, 1024, 8, 8), rois, 14)
    except RuntimeError as error:
        print(str(error).splitlines()[0])
print(roi_align(torch.ones(1, 1, 8, 8), rois[:1], 1).item())
""").splitlines()
    assert "memory" in printed[0]
    assert "the batch index of rois[4999] is 1" in printed[1]
    assert printed[2] == "1.0"


@needs_linux
@pytest.mark.parametrize(
    "channels, side, packed",
    [
        (512, 200, 78),
        (9, 1000, 128),  # as 32 channels, and the plan
    ],
)
def test_a_call_needs_at_most_one_copy_of_the_features(channels, side, packed):
    features, output = (n * channels * 4 / MEGABYTE for n in (side * side, 400 * 49))
    code = """
import re, torch
from pathlib import Path
from mrcnn_plugin.layers.roi_align import roi_align

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

generator = torch.Generator().manual_seed(0)
features = torch.randn(1, channels, side, side, requires_grad=True)
corner = torch.rand(400, 2, generator=generator) * 100
rois = torch.cat([torch.zeros(400, 1), corner, corner + 20 + 80 * torch.rand(400, 2)], 1)
rois *= side / 200
roi_align(features[:, :32], rois, 7).sum().backward()
features.grad = None
grad = torch.ones(400, channels, 7, 7)
Path("/proc/self/clear_refs").write_text("5")  # VmHWM is VmRSS again
before = peak()
output = roi_align(features, rois, 7)
forward = peak() - before
(result,) = torch.autograd.grad(output, features, grad)
print(forward, peak() - before)
"""
    forward, both = map(float, run(f"channels, side = {channels}, {side}\n{code}").split())
    assert output <= forward <= output + packed
    assert output + features <= both <= output + features + packed


SCRATCH = {
    # 128 MB per thread: 32 float32 channels of the map; the map itself has 18 MB.
    "the channels of a map": ((1, 9, 1000, 1000), 1, (1, 1), "could not allocate 1280", "threads"),
    # 600 MB of lists for an output of 16 MB.
    "the lists of the bins": ((1, 1, 8, 8), 2000, (4096, 1), "2000 RoIs of 4096 x 1", "fewer RoIs"),
}


@needs_linux
@pytest.mark.parametrize("shape, count, size, found, advice", SCRATCH.values(), ids=SCRATCH)
@pytest.mark.parametrize("threads", [1, 2])
def test_too_little_memory_for_scratch_is_an_error_that_tells_what_to_do(
    shape, count, size, found, advice, threads
):
    printed = run(f"""
import resource, torch
from pathlib import Path
from mrcnn_plugin.layers.roi_align import roi_align

torch.set_num_threads({threads})
features = torch.ones({shape}, dtype=torch.float16)
height, width = features.shape[2:]
rois = torch.tensor([[0.0, 0, 0, width, height]]).repeat({count}, 1)
few = torch.ones(1, 64, 40, 40, requires_grad=True)  # starts the threads
roi_align(few, torch.tensor([[0.0, 0, 0, 40, 40]]).repeat(5000, 1), 7).sum().backward()
options = *{size}, 1.0, 0, True, 0, 1
grad = torch.ones({count}, {shape[1]}, *{size}, dtype=torch.float16)

def backward():
    none = torch.empty(0, dtype=torch.int32)
    torch.ops.mrcnn_plugin.roi_align_backward(grad, rois, none, *features.shape, *options)

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)
for call in (lambda: roi_align(features, rois, {size}), backward):
    try:
        call()
    except RuntimeError as error:
        print(str(error).splitlines()[0])
print(roi_align(torch.ones(1, 1, 8, 8), rois[:1] / 999, 1).item())
""").splitlines()
    assert len(printed) == 3 and printed[-1] == "1.0"
    for message in printed[:2]:
        assert "roi_align: could not allocate" in message
        assert found in message and advice in message


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "shape", [(10**8, 0, 9, 9), (10**8, 3, 0, 9), (10**8, 3, 9, 0), (1, 10**12, 0, 9)]
)
def test_inputs_without_bytes_take_no_time(mode, shape):
    features = torch.zeros(shape, requires_grad=True)
    start = time.perf_counter()
    for count in (0, 1) if shape[1] < 10**12 else (0,):
        output = roi_align(features, torch.zeros(count, 5), 3, mode=mode)
        output.sum().backward()
        assert output.shape == (count, shape[1], 3, 3) and not output.any()
        assert features.grad.shape == shape
    assert time.perf_counter() - start < 1  # second; one byte per image would take as long


@pytest.mark.parametrize("mode", MODES)
def test_images_without_rois_take_no_time(mode):
    features = torch.ones(1, 1, 1, 1).expand(10**8, 3, 9, 9)  # four bytes
    start = time.perf_counter()
    output = roi_align(features, torch.tensor([[7.0, 0, 0, 9, 9], [5, 1, 1, 2, 2]]), 3, mode=mode)
    assert (output == 1).all()
    assert roi_align(features, torch.zeros(0, 5), 3, mode=mode).shape == (0, 3, 3, 3)
    assert time.perf_counter() - start < 1
