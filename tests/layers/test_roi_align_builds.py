"""Builds RoIAlign's C++ for arm64, with Clang and with sanitizers, and runs its tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.cpp_extension import include_paths, library_paths

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parents[1]
SOURCES = sorted((ROOT / "csrc").rglob("*.cpp"))
ARM64 = "aarch64-linux-gnu-g++"
PACKAGES = {"g++": "g++", "clang++": "clang", ARM64: "g++-aarch64-linux-gnu"}


def find(*names, package):
    for name in names:
        if shutil.which(name):
            return name
    return pytest.skip(f"{names[0]} is not installed: apt-get install {package}")


def run(*command, **kwargs):
    command = [str(word) for word in command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compile_with(compiler, *arguments):
    """Compile with the flags of setup.py that affect results; every warning is an error."""
    run(
        *(find(compiler, package=PACKAGES[compiler]), "-std=c++17", "-fPIC"),
        *("-ffp-contract=off", "-fvisibility=hidden", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
        *("-Wall", "-Wextra", "-Werror", "-I", ROOT / "csrc"),
        *(word for path in include_paths(device_type="cpu") for word in ("-isystem", path)),
        *arguments,
    )


# ---- The kernels without torch -------------------------------------------------------------------


@pytest.mark.parametrize("compiler", PACKAGES)
def test_kernels_equal_the_definition(compiler, tmp_path):
    program = tmp_path / "kernels"
    sources = (TESTS / "roi_align_kernels.cpp", ROOT / "csrc/cpu/kernels_baseline.cpp")
    if compiler != ARM64:
        compile_with(compiler, "-O2", *sources, "-o", program)
        run(program)
        return
    compile_with(compiler, "-O2", "-static", *sources, "-o", program)
    run(find("qemu-aarch64-static", "qemu-aarch64", package="qemu-user-static"), program)


def test_everything_compiles_for_arm64():
    compile_with(ARM64, "-fsyntax-only", *SOURCES)


# ---- The library ---------------------------------------------------------------------------------


def make_library(directory, compiler, *flags):
    library = directory / "_C.so"
    libraries = (*(f"-L{path}" for path in library_paths()), "-ltorch", "-ltorch_cpu", "-lc10")
    compile_with(compiler, "-shared", *flags, *SOURCES, *libraries, "-o", library)
    return library


# conftest.py loads the library that MRCNN_TEST_LIBRARY names instead of that of the checkout.
RUN_PYTEST = """
import sys, conftest, mrcnn_plugin, pytest, torch
assert conftest.EMULATION in torch.ops.loaded_libraries
sys.exit(pytest.main(sys.argv[1:]))
"""


def run_tests(library, *names, **environment):
    """Run tests of RoIAlign in a process that loads `library`."""
    run(
        *(sys.executable, "-c", RUN_PYTEST, "-q", "-p", "no:cacheprovider"),
        *("-m", "not slow and not gpu", *(TESTS / f"test_{name}.py" for name in names)),
        # Tests that start processes are excluded, because those would load the checkout's library.
        *("-k", "not (instruction or benchmark_runs or bad_input or documents)", "-s"),
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, TESTS.parent, TESTS, *sys.path[1:]))),
            "MRCNN_TEST_LIBRARY": str(library),
            "OMP_NUM_THREADS": "2",
            **environment,
        },
    )


NAMES = ("roi_align", "roi_align_errors", "roi_align_kernels", "multiscale_roi_align")


@pytest.mark.slow
def test_library_of_clang(tmp_path):
    run_tests(make_library(tmp_path, "clang++", "-O3"), *NAMES)


SANITIZERS = (
    "-fsanitize=address,undefined,float-cast-overflow",
    *("-fno-sanitize-recover=all", "-g1"),
)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """A library with the sanitizers, and the environment that it needs."""
    preload = []
    for name in ("libasan.so", "libstdc++.so"):  # without the latter, exceptions are not found
        preload.append(run(find("g++", package="g++"), f"-print-file-name={name}").strip())
    if not all(map(os.path.isabs, preload)):
        pytest.skip("g++ has no libasan: apt-get install g++, or dnf install libasan libubsan")
    environment = {"LD_PRELOAD": " ".join(preload), "ASAN_OPTIONS": "detect_leaks=0"}
    return make_library(tmp_path_factory.mktemp("library"), "g++", "-O1", *SANITIZERS), environment


@pytest.mark.slow
def test_no_access_is_out_of_bounds_and_no_behaviour_undefined(sanitized):
    """Runs with every instruction set that this processor supports."""
    import mrcnn_plugin  # noqa: F401

    library, environment = sanitized
    run_tests(library, *NAMES, "roi_align_faults", **environment)
    isas = ("baseline", "avx2", "avx512")
    for isa in isas[: isas.index(torch.ops.mrcnn_plugin.cpu_isa())]:
        run_tests(library, "roi_align_kernels", MRCNN_PLUGIN_ISA=isa, **environment)


@pytest.mark.slow
def test_drawn_calls_under_the_sanitizers(sanitized, record_property):
    pytest.importorskip("hypothesis", reason="pip install hypothesis, or make setup")
    library, environment = sanitized
    run_tests(library, "roi_align_properties", MRCNN_PROPERTY_CASES="800", **environment)
    record_property("cases", 4 * 800)
