"""Large results of RoIAlign on the CPU live in memory that is used again, up to a limit."""

import copy
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from builders import ROOT
from torch.utils.data import DataLoader, Dataset

from mrcnn_plugin.layers.roi_align import roi_align, set_output_cache

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the cache is for Linux")

MEGABYTE = 1 << 20
CHANNELS = 1024  # 7 x 7 bins of so many float32 channels are 0.19 MB a RoI


@pytest.fixture(autouse=True)
def cache():
    """An empty cache of 512 MB for every test."""
    before = set_output_cache(0)
    set_output_cache(512)
    yield
    set_output_cache(0)
    set_output_cache(before)


def pool(megabytes, value=1.0, channels_last=False):
    """A result of that size at least, in which every element is `value`."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    features = torch.full((1, CHANNELS, 8, 8), float(value)).to(memory_format=layout)
    count = -(-megabytes * MEGABYTE // (4 * CHANNELS * 49))
    rois = torch.tensor([[0.0, 1, 1, 7, 7]]).repeat(count, 1)
    return roi_align(features, rois, 7)


def run(code, **environment):
    """Runs `code` after `pool` and what it needs, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", f"from test_cpu_memory import *\n{code}"],
        env={
            **os.environ,
            "PYTHONPATH": ":".join(map(str, (ROOT, ROOT / "tests", ROOT / "tests/layers"))),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


def resident():
    """MB of this process in memory, and of those the ones that the system may take at any time."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return [
        int(re.search(rf"^{key}: +(\d+) kB", text, re.M)[1]) / 1024 for key in ("Rss", "LazyFree")
    ]


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_freed_result_is_used_again_and_a_living_one_is_not(channels_last):
    first = pool(40, 1, channels_last)
    second = pool(40, 2, channels_last)
    assert first.data_ptr() != second.data_ptr()
    address = first.data_ptr()
    view = first[3:, 5]  # keeps the memory
    del first
    third = pool(40, 3, channels_last)
    assert third.data_ptr() not in (address, second.data_ptr())
    assert (view == 1).all()
    del view
    fourth = pool(39, 4, channels_last)
    assert fourth.data_ptr() == address
    for result, value in ((second, 2), (third, 3), (fourth, 4)):
        assert (result == value).all()
        assert result.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_results_with_and_without_the_cache_are_the_same_tensors():
    kept = pool(40)
    set_output_cache(0)
    fresh = pool(40)
    assert torch.equal(kept, fresh)
    assert kept.stride() == fresh.stride() and kept.data_ptr() % 64 == 0
    assert kept.untyped_storage().nbytes() == fresh.untyped_storage().nbytes()


def test_a_block_serves_results_of_half_its_size_and_more():
    address = pool(100).data_ptr()
    assert pool(40).data_ptr() != address
    assert pool(60).data_ptr() == address


def test_gradients_of_large_maps_are_cached_too():
    def gradient():
        features = torch.ones(1, 64, 400, 400, requires_grad=True)  # 41 MB
        roi_align(
            features, torch.tensor([[0.0, 0, 0, 400, 400]]), 1, sampling_ratio=1
        ).sum().backward()
        return features.grad

    first = gradient()
    address, expected = first.data_ptr(), first.clone()
    del first
    second = gradient()
    assert second.data_ptr() == address
    assert torch.equal(second, expected) and second.sum() == 64


def test_idle_memory_is_limited_and_the_systems_for_the_taking():
    process = run("""
pool(1)
before, _ = resident()
for limit in (200, 0):
    set_output_cache(limit)
    alive = [pool(60) for _ in range(5)]
    assert resident()[0] - before > 290
    del alive
    kept, lazy = resident()
    print(round(kept - before), round(lazy))
""")
    assert process.returncode == 0, process.stderr
    (kept, lazy), (kept_by_none, lazy_of_none) = (
        map(int, line.split()) for line in process.stdout.splitlines()
    )
    assert 170 <= lazy <= 200 and kept <= 215  # three of the five, 60 MB each
    assert lazy_of_none == 0 and kept_by_none <= 15


def test_lowering_the_limit_frees_at_once():
    result = pool(40)
    del result
    address = pool(40).data_ptr()
    assert pool(40).data_ptr() == address  # it is kept
    kept = resident()[0]
    assert set_output_cache(10) == 512
    assert resident()[0] <= kept - 40
    assert set_output_cache(512) == 10


def test_a_process_short_of_memory_gives_up_idle_blocks_before_it_fails():
    process = run("""
import resource
pool(300)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * MEGABYTE,) * 2)
assert pool(650, 5).max() == 5  # 300 of it were idle
try:
    pool(3000)
except RuntimeError as error:
    print(str(error).splitlines()[0])
assert pool(40, 6).max() == 6
rois = torch.tensor([[0.0, 1, 1, 7, 7]]).repeat(5000, 1)  # of 3.8 GB in 14 x 14 bins
rois[-1, 0] = 1
try:
    roi_align(torch.zeros(1, CHANNELS, 8, 8), rois, 14)
except RuntimeError as error:
    print(str(error).splitlines()[0])
""")
    assert process.returncode == 0, process.stderr
    assert "roi_align: no memory for a result of 3" in process.stdout
    assert "the batch index of rois[4999] is 1" in process.stdout  # before any memory is asked for


@pytest.mark.parametrize("value, limit", [("", 1024), ("64", 64)])
def test_the_environment_sets_the_limit(value, limit):
    process = run("print(set_output_cache(1))", MRCNN_PLUGIN_OUTPUT_CACHE_MB=value)
    assert process.stdout.strip() == str(limit), process.stderr


@pytest.mark.parametrize("value", ["1 GB", "9" * 30])
def test_a_limit_that_is_no_number_is_refused(value):
    process = run("pool(40)", MRCNN_PLUGIN_OUTPUT_CACHE_MB=value)
    assert process.returncode == 1
    assert "MRCNN_PLUGIN_OUTPUT_CACHE_MB must be a whole number of MiB" in process.stderr
    assert repr(value) in process.stderr


def test_a_negative_limit_is_refused():
    with pytest.raises(RuntimeError, match="expected MiB, 0 for no cache, got -1"):
        set_output_cache(-1)


def test_many_threads_share_the_cache():
    wrong = []

    def work(value):
        for step in range(15):
            result = pool(33, value + step / 16)
            if not (result == value + step / 16).all():
                wrong.append((value, step))

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class Pooled(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return pool(33, float(i))


def test_workers_inherit_the_cache_and_send_results():
    pool(40)
    loader = DataLoader(
        Pooled(), batch_size=None, num_workers=2, worker_init_fn=lambda _: torch.set_num_threads(1)
    )
    assert all((result == i).all() for i, result in enumerate(loader))


@pytest.mark.parametrize(
    "channels, side, packed",
    [
        (512, 200, 78),
        (9, 1000, 128),  # as 32 channels, and the plan
    ],
)
def test_beyond_inputs_and_outputs_a_call_needs_at_most_one_copy_of_the_features(
    channels, side, packed
):
    features, output = (n * channels * 4 / MEGABYTE for n in (side * side, 400 * 49))
    code = """
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
    process = run(f"channels, side = {channels}, {side}\n{code}")
    assert process.returncode == 0, process.stderr
    forward, both = map(float, process.stdout.split())
    assert output <= forward <= output + packed
    assert output + features <= both <= output + features + packed


def test_a_kept_result_is_shared_saved_and_copied_but_does_not_grow(tmp_path):
    result = pool(40, 3)
    torch.save(result, tmp_path / "result.pt")
    for other in (
        torch.load(tmp_path / "result.pt"),
        copy.deepcopy(result),
        result.share_memory_(),
    ):
        assert (other == 3).all()
    assert result.is_shared()
    with pytest.raises(RuntimeError, match="not resizable"):
        pool(40).resize_(1000, CHANNELS, 7, 7)
    set_output_cache(0)
    assert pool(40).resize_(1000, CHANNELS, 7, 7).shape[0] == 1000


@pytest.mark.parametrize("limit", [0, 512])
def test_a_size_that_overflows_is_an_error_and_not_a_crash(limit):
    set_output_cache(limit)
    for size in ((2**24, 2**38 + 1), (2**31, 2**31), (2**20, 2**20)):
        with pytest.raises(RuntimeError):
            roi_align(torch.zeros(1, 1, 3, 3), torch.tensor([[0.0, 0, 0, 2, 2]]), size)
