"""Runs the CUDA kernels of RoIAlign without a GPU, compiled for CPU tensors, thread by thread.

tests/layers/cuda_emulation replaces the CUDA runtime, so the source is that of a GPU. Each test
loads this library instead of the package's own in a new process.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from roi_align_cases import (
    MODES,
    PYRAMID_SCALES,
    SCALE,
    all_rois,
    make_features,
    make_pyramid,
    make_pyramid_rois,
    make_rois,
)

from mrcnn_plugin.layers.multiscale_roi_align import multiscale_roi_align
from mrcnn_plugin.layers.roi_align import roi_align

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parents[1]
COMPILER = os.environ.get("CXX") or "g++"
ORDERS = ("forward", "reversed", "shuffled")
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
# sampling_ratio, aligned, bin_stride. 40 samples are more than a list has entries.
GRIDS = [(0, True, 1), (2, False, 3), (3, True, 2), (40, True, 1)]
# The tests of the definition, except those that are not about kernels or whose error CUDA cannot
# raise without a synchronization; the CUDA tests, except those that need a GPU or both devices.
FILES = [f"test_{name}.py" for name in ("roi_align", "roi_align_errors", "roi_align_cuda")]
FILES += ["test_multiscale_roi_align.py"]
CPU_ONLY = "opcheck or compile or missing_library or out_of_range or wrong_shapes"
GPU_ONLY = "equals_cpu or equals_torchvision or 32_bits or hostile_boxes or stream or graph"
GPU_ONLY += " or first_call or autocast or another_device"
EXCLUDED = f"{CPU_ONLY} or cuda_equals_cpu or (test_roi_align_cuda and ({GPU_ONLY}))"


def compiled(directory, *flags):
    """Compile the library with the flags of setup.py and return its path."""
    from torch.utils.cpp_extension import include_paths, library_paths

    if shutil.which(COMPILER) is None:
        pytest.skip(f"{COMPILER} is not installed: apt-get install g++, or set CXX")
    library = directory / "emulation.so"
    command = [
        *(COMPILER, "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
        *("-DTORCH_TARGET_VERSION=0x020a000000000000", "-DUSE_CUDA"),
        *("-Wno-unknown-pragmas", "-I", str(TESTS / "cuda_emulation"), "-I", str(ROOT / "csrc")),
        *(part for path in include_paths(device_type="cpu") for part in ("-isystem", path)),
        *flags,
        *(str(ROOT / "csrc/library.cpp"), str(TESTS / "cuda_emulation/roi_align.cpp")),
        *(f"-L{path}" for path in library_paths()),
        *("-ltorch", "-ltorch_cpu", "-lc10", "-o", str(library)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return library


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("emulation"), "-O1")


def run(library, *command, order="forward", **environment):
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*map(str, (ROOT, TESTS.parent, TESTS)), *sys.path[1:]]),
            "MRCNN_TEST_LIBRARY": str(library),
            "CUDA_EMULATION_ORDER": order,
            "OMP_NUM_THREADS": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---- The definition ------------------------------------------------------------------------------


def test_the_tests_of_the_cpu_and_of_cuda_pass(library):
    files = [str(TESTS / name) for name in FILES]
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *files)
    summary = run(library, *command, "-k", f"not ({EXCLUDED})").splitlines()[-1]
    assert " skipped" not in summary and int(summary.split(" passed")[0]) > 300, summary


def test_drawn_calls_equal_the_oracle(library, record_property):
    pytest.importorskip("hypothesis", reason="pip install hypothesis, or make setup")
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not out_of_range")
    file = TESTS / "test_roi_align_properties.py"
    summary = run(library, *command, str(file), MRCNN_PROPERTY_CASES="200").splitlines()[-1]
    assert summary.startswith("4 passed"), summary
    record_property("cases", 4 * 200)


# ---- The CPU -------------------------------------------------------------------------------------


def both(op, features, *args, **kwargs):
    """Return the output and the gradient of each tensor of `features`."""
    leaves = [f.detach().requires_grad_() for f in features]
    output = op(leaves, *args, **kwargs)
    values = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    grad = torch.empty_like(output).copy_(values)  # in the layout of the output
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


def all_results(dtypes=tuple(TOLERANCES)):
    """Return {name: [output, gradients...]}. Elements that no kernel has written are NaN."""
    torch.use_deterministic_algorithms(True)
    one = lambda f, *args, **kwargs: roi_align(f[0], *args, **kwargs)  # noqa: E731
    results = {}
    for dtype in dtypes:
        coordinates = torch.float64 if dtype == torch.float64 else torch.float32
        plain = make_features(21, dtype=dtype)  # not a multiple of the channels a thread owns
        layouts = {
            "contiguous": plain,
            "channels last": plain.to(memory_format=torch.channels_last),
            "strided": make_features(42, dtype=dtype).transpose(2, 3).contiguous()[:, ::2].mT,
        }
        for mode in MODES:
            for layout, features in layouts.items():
                for ratio, aligned, stride in GRIDS:
                    args = (all_rois(coordinates, ratio), (7, 5), SCALE, ratio)
                    options = {"mode": mode, "aligned": aligned, "bin_stride": stride}
                    results[f"{dtype} {mode} {layout} {ratio}"] = both(
                        one, [features], *args, **options
                    )
            rois = all_rois(coordinates)
            rois[::7, 3] = float("nan")
            rois[1::7, 2] = 3e38
            rois[2::7, 4] = 1e9
            results[f"{dtype} {mode} hostile"] = both(one, [plain], rois, 3, SCALE, mode=mode)
            pyramid = [plain, make_features(21, dtype=dtype, seed=1)[:, :, :5, 1:]]
            for layout in (torch.contiguous_format, torch.channels_last):
                maps = [f.contiguous(memory_format=layout) for f in pyramid]
                results[f"{dtype} {mode} {layout} pyramid"] = both(
                    multiscale_roi_align, maps, all_rois(coordinates), (3, 4), (0.5, 0.25),
                    mode=mode, canonical_box_size=8, canonical_level=1,
                )  # fmt: skip
    for mode in MODES:  # float64 RoIs: coordinates are finer than the sums
        features = [make_features(3, dtype=torch.float32)]
        args = (all_rois(torch.float64), 7, SCALE)
        results[f"float64 rois {mode}"] = both(one, features, *args, mode=mode)
        for shape in [(2, 0, 8, 9), (2, 3, 0, 9), (2, 3, 8, 0)]:
            results[f"{mode} {shape}"] = both(
                one, [torch.ones(shape)], make_rois().float(), 3, mode=mode
            )
        results[f"no rois {mode}"] = both(one, features, make_rois()[:0].float(), 3, mode=mode)
    torch.use_deterministic_algorithms(False)
    return results


def emulated_results(library, path, **kwargs):
    code = (
        "import sys, conftest, torch, test_roi_align_emulation as test;"
        "torch.save(test.all_results(), sys.argv[1])"
    )
    run(library, "-c", code, str(path), **kwargs)
    return torch.load(path)


@pytest.fixture(scope="module")
def in_order(library, tmp_path_factory):
    return emulated_results(library, tmp_path_factory.mktemp("results") / "forward.pt")


def test_equals_the_cpu(in_order):
    expected = all_results()
    assert in_order.keys() == expected.keys()
    for name, results in expected.items():
        for i, (ours, cpu) in enumerate(zip(in_order[name], results, strict=True)):
            limit = TOLERANCES[cpu.dtype] * (10 if i else 1)
            assert ours.stride() == cpu.stride(), name
            torch.testing.assert_close(
                ours, cpu, atol=limit, rtol=limit, msg=lambda words, at=(name, i): f"{at}: {words}"
            )


@pytest.mark.parametrize("order", ORDERS[1:])
def test_the_order_of_the_threads_does_not_matter(library, in_order, order, tmp_path):
    results = emulated_results(library, tmp_path / "results.pt", order=order)
    assert results.keys() == in_order.keys()
    for name, expected in in_order.items():
        assert all(torch.equal(a, b) for a, b in zip(results[name], expected, strict=True)), name


# ---- Launches ------------------------------------------------------------------------------------


def in_emulation(library, test, **environment):
    """Run a function of this file with the library's test functions as its argument."""
    code = (
        "import ctypes, sys, conftest, test_roi_align_emulation as test;"
        "getattr(test, sys.argv[1])(ctypes.CDLL(conftest.EMULATION))"
    )
    run(library, "-c", code, test.__name__, **environment)


def count_launches(emulation):
    rois = make_pyramid_rois()
    scales = PYRAMID_SCALES
    for mode in MODES:
        features = [f.requires_grad_() for f in make_pyramid()]
        before = emulation.cuda_emulation_launches()
        output = multiscale_roi_align(features, rois, 7, scales, mode=mode)
        assert emulation.cuda_emulation_launches() == before + 2
        output.sum().backward()
        of_level = 6 if mode == "avg" else 7  # bins, pixels, masks, packs, sums, unpacking
        assert emulation.cuda_emulation_launches() == before + 2 + of_level * len(features)


def test_a_pyramid_takes_two_launches_and_its_backward_six_or_seven_a_level(library):
    in_emulation(library, count_launches)


def huge_plan():
    """Pool RoIs whose plan has 8 MB each: 64 bins with room for 8002 samples of 16 bytes."""
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(1, 1, 1, width, generator=generator) for width in (4000, 2000)]
    start = torch.arange(70.0)[:, None]
    rois = torch.cat([0 * start, 50 * start, 0 * start, 50 * start + 500, 0 * start + 1], 1)
    levels = torch.randint(2, (70,), generator=generator)
    return torch.ops.mrcnn_plugin.roi_align_levels(
        features, rois, levels, 1, 64, (1.0, 0.5), 0, True, MODES.index("max"), 1
    )


def save_huge_plan(emulation):
    torch.save(huge_plan(), os.environ["RESULT"])
    assert emulation.cuda_emulation_launches() == 9 * 2


def test_a_huge_plan_is_made_in_parts(library, tmp_path):
    in_emulation(library, save_huge_plan, RESULT=str(tmp_path / "result.pt"))
    for ours, cpu in zip(torch.load(tmp_path / "result.pt"), huge_plan()):
        torch.testing.assert_close(ours, cpu)


def in_parts(mode, count, bins, layout):
    """RoIs for more than one plan (1100) or more than one part of a plan (270 of 128x128 bins)."""
    generator = torch.Generator().manual_seed(0)
    corners, sizes = torch.rand(2, count, 2, generator=generator, dtype=torch.float64) * 20
    image = (torch.arange(count) > 0.9 * count)[:, None]  # the last part has RoIs of both images
    rois = torch.cat([image, corners, corners + sizes], 1)
    features = torch.randn(2, 8, 11, 10, generator=generator, dtype=torch.float64)
    features = features.contiguous(memory_format=layout)
    one = lambda f, *args, **kwargs: roi_align(f[0], *args, **kwargs)  # noqa: E731
    return both(one, [features], rois, bins, 0.5, 2, mode=mode)[1]


CASES = [(1100, 2, torch.contiguous_format), (1100, 2, torch.channels_last)]
CASES += [(270, 128, torch.contiguous_format)]


def save_parts(emulation):
    gradients = []
    for mode in MODES:
        for case in CASES:
            before = emulation.cuda_emulation_launches()
            gradients.append(in_parts(mode, *case))
            assert emulation.cuda_emulation_launches() - before > 2 + 7  # of one part
    torch.save(gradients, os.environ["RESULT"])


def test_the_backward_of_many_rois_is_made_in_parts(library, tmp_path):
    in_emulation(library, save_parts, RESULT=str(tmp_path / "result.pt"))
    expected = [in_parts(mode, *case) for mode in MODES for case in CASES]
    for ours, cpu in zip(torch.load(tmp_path / "result.pt"), expected, strict=True):
        assert ours.stride() == cpu.stride()
        torch.testing.assert_close(ours, cpu, atol=1e-9, rtol=1e-9)


def check_cells(emulation):
    """Compare cells with numpy.unravel_index. The second shape has more than 2^32 threads."""
    for shape in [(3, 21, 5, 7), (2**12, 2**20 + 3, 2, 2**13)]:
        n, channels, height, width = shape
        tiles = -(-channels // 8)
        threads = n * tiles * height * width
        for order in [(0, 1, 2, 3), (0, 2, 3, 1)]:
            sizes = [(n, tiles, height, width)[d] for d in order]
            for thread in [*range(0, threads, threads // 105), threads - 1]:
                at = (ctypes.c_int64 * 5)()
                emulation.cuda_emulation_cell(
                    ctypes.c_int64(thread), (ctypes.c_int64 * 4)(*shape), order[3] == 1, at
                )
                positions = dict(zip(order, np.unravel_index(thread, sizes)))
                expected = [int(positions[d]) for d in range(4)]
                assert list(at)[:4] == expected, (thread, list(at), expected)
                assert at[4] == len(range(expected[1], channels, tiles)), (thread, at[4])


def test_threads_share_a_tensor_of_any_size(library):
    in_emulation(library, check_cells)


# ---- Memory --------------------------------------------------------------------------------------


def results_of_one_type(_emulation):
    all_results((torch.float32,))  # addresses are the same for all


def test_no_access_is_out_of_bounds(tmp_path):
    """Compiles all kernels with the address sanitizer, which checks every access."""
    preload = []
    for name in ("libasan.so", "libstdc++.so"):  # without the latter, its exceptions are not found
        asked = subprocess.run(
            [COMPILER, f"-print-file-name={name}"], capture_output=True, text=True
        )
        preload.append(asked.stdout.strip())
    if not all(map(os.path.isabs, preload)):
        pytest.skip(f"{COMPILER} has no address sanitizer: set CXX=g++")
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g1")
    library = compiled(tmp_path, *flags)
    in_emulation(
        library, results_of_one_type, LD_PRELOAD=" ".join(preload), ASAN_OPTIONS="detect_leaks=0"
    )
