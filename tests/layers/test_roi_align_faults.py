"""RoIAlign on bad and extreme input, where a process could crash, hang or run out of memory.

What raises in Python, and what NaN and empty inputs give, is in test_roi_align_errors.py.
"""

import subprocess
import sys

import pytest
import torch
import torchvision
from builders import ROOT
from roi_align_cases import MODES, gradient

from mrcnn_plugin.layers.roi_align import roi_align

# ---- The table of docs/roi_align.md --------------------------------------------------------------


@pytest.fixture(scope="module")
def answers():
    """The rows that tools/roi_align_faults.py prints: [(input, answer)]."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools/roi_align_faults.py", "--ours"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(row.strip("| ").split(" | ")) for row in done.stdout.splitlines()[2:]]


def test_every_bad_input_has_its_stated_answer(answers, record_property):
    """Each in a process of its own, with limited time and memory, in both modes."""
    record_property("cases", 2 * len(answers))
    assert len(answers) > 30


def test_the_documents_table_is_what_the_tool_prints(answers):
    lines = (ROOT / "docs/roi_align.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    documented = {(row[0], row[-1]) for row in rows}
    assert set(answers) <= documented


# ---- Boxes on the discontinuities ----------------------------------------------------------------

HEIGHT, WIDTH = 6, 9


def boxes_on_the_edges():
    """Corners on -1, 0, H - 1, H and W in map pixels, reversed, slivers of 1e-6, whole numbers."""
    marks = [-1.0, -0.5, 0.0, 0.5, 5.0, 5.5, 6.0, 8.0, 8.5, 9.0, 9.5]
    pairs = [(a, b) for a in marks for b in marks]
    boxes = [(a, c, b, d) for a, b in pairs for c, d in pairs[::7]]
    slivers = [(a, 1.0, a + 1e-6, 4.0) for a in marks] + [(1.0, a, 4.0, a + 1e-6) for a in marks]
    boxes = torch.tensor(boxes + slivers, dtype=torch.float64)
    return torch.cat([torch.zeros(len(boxes), 1, dtype=torch.float64), boxes], dim=1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_boxes_on_the_edges_equal_torchvision(aligned, sampling_ratio, dtype):
    """The bilinear rule jumps at -1 and H: one rounding more or less would show."""
    features = torch.randn(1, 2, HEIGHT, WIDTH, dtype=dtype)
    rois = boxes_on_the_edges().to(dtype)
    if aligned and not sampling_ratio:  # an adaptive grid of a reversed box is undefined there
        rois = rois[(rois[:, 3] >= rois[:, 1]) & (rois[:, 4] >= rois[:, 2])]
    args = (features, rois, (3, 2), 1.0, sampling_ratio)
    theirs = torchvision.ops.roi_align(*args, aligned)
    torch.testing.assert_close(roi_align(*args, aligned=aligned), theirs, atol=1e-6, rtol=0)


# ---- Precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_half_features_at_4000_pixels(mode, dtype, tolerance):
    """Twice the rounding of input and output; half coordinates are 2 (float16) or 16 pixels off."""
    features = torch.rand(1, 3, 250, 250, generator=torch.Generator().manual_seed(0)).to(dtype)
    rois = torch.tensor([[0, 3701.3, 3803.7, 3977.1, 3911.9], [0, 3900.7, 33.1, 3999.3, 3999.9]])
    output = roi_align(features, rois, 7, 1 / 16, 2, mode=mode)
    expected = roi_align(features.double(), rois.double(), 7, 1 / 16, 2, mode=mode)
    assert (output.double() - expected).abs().max() < tolerance
    with torch.autocast("cpu", dtype):
        assert torch.equal(roi_align(features, rois, 7, 1 / 16, 2, mode=mode), output)


# ---- The maximum ---------------------------------------------------------------------------------


@pytest.mark.parametrize("low", [-3.0, -20000.0, -3e38])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
def test_maximum_of_negative_maps_on_the_map(low, sampling_ratio):
    """No start value shows through, constant maps (ties) included; the gradient goes to one sample
    a bin, whose weights sum to one."""
    rois = torch.tensor([[0, 0.3, 0.4, 5.6, 4.9], [0, 1.0, 1.0, 4.0, 4.0], [0, 0.5, 0.5, 8.0, 5.5]])
    constant = torch.full((1, 2, HEIGHT, WIDTH), low)
    output = roi_align(constant, rois, (3, 2), 1.0, sampling_ratio, mode="max")
    torch.testing.assert_close(output, torch.full_like(output, low), rtol=1e-6, atol=0)

    noise = constant * (1 + 0.1 * torch.rand_like(constant))
    output = roi_align(noise, rois, (3, 2), 1.0, sampling_ratio, mode="max")
    assert (output <= noise.max()).all() and (output >= noise.min()).all()
    for features in (constant, noise):
        grad = torch.rand_like(output)
        back = gradient(
            roi_align, features, rois, (3, 2), 1.0, sampling_ratio, mode="max", grad=grad
        )
        torch.testing.assert_close(back.sum((0, 2, 3)), grad.sum((0, 2, 3)))
        one = torch.zeros_like(grad)
        one[0, 0, 1, 1] = 1
        back = gradient(
            roi_align, features, rois, (3, 2), 1.0, sampling_ratio, mode="max", grad=one
        )
        assert 1 <= back.count_nonzero() <= 4


# ---- More elements than 32 bits count ------------------------------------------------------------


def skip_without_memory(gigabytes):
    with open("/proc/meminfo") as file:
        available = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    if available / 2**20 < gigabytes:
        pytest.skip(
            f"needs {gigabytes} GiB of free memory, {available / 2**20:.0f} are: "
            "run it on a larger machine, or without other programs"
        )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/meminfo: run it on Linux")
def test_output_of_more_than_2_31_elements():
    skip_without_memory(10)
    channels, count, size = 1 << 15, 1340, 7
    assert count * channels * size * size > 2**31
    features = torch.zeros(1, channels, 3, 3, dtype=torch.float16)
    features[0, -1] = torch.arange(9.0).view(3, 3)
    features.requires_grad_()
    rois = torch.tensor([[0, 0.0, 0.0, 3.0, 3.0]]).repeat(count, 1)
    output = roi_align(features, rois, size, sampling_ratio=1)
    expected = roi_align(features[:, -1:].detach(), rois[:1], size, sampling_ratio=1)
    assert torch.equal(output[-1, -1], expected[0, 0])
    assert not output[-1, -2].any() and torch.equal(output[0, -1], expected[0, 0])
    output.backward(torch.ones((), dtype=torch.float16).expand_as(output))
    total = features.grad[0].double().sum((1, 2))
    torch.testing.assert_close(total, total[:1].expand(channels), rtol=0, atol=0)
    assert total[0].item() == pytest.approx(count * size * size, rel=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/meminfo: run it on Linux")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_input_of_more_than_2_31_elements(mode, layout):
    skip_without_memory(10)
    shape = ((1 << 15) + 1, 16, 64, 64)
    features = torch.zeros(shape, dtype=torch.float16)
    features = features.to(memory_format=layout)
    assert features[-1].storage_offset() >= 2**31
    features[-1] = torch.arange(64.0)  # along W
    features.requires_grad_()
    rois = torch.tensor([[0, 10.0, 10.0, 12.0, 12.0], [shape[0] - 1, 10.0, 10.0, 12.0, 12.0]])
    output = roi_align(features, rois, 2, sampling_ratio=1, mode=mode)
    assert not output[0].any()
    assert torch.equal(output[1], torch.tensor([10.0, 11.0]).half().expand(16, 2, 2))
    output.backward(torch.ones_like(output))
    expected = torch.zeros(16, 64, 64, dtype=torch.float16)
    expected[:, 10:12, 10:12] = 1
    assert torch.equal(features.grad[-1], expected) and torch.equal(features.grad[0], expected)
    assert features.grad.count_nonzero() == 2 * expected.count_nonzero()
