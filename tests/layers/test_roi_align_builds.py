"""Builds RoIAlign's C++ for arm64, with Clang and with sanitizers, and runs its tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
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


def sanitizers(compiler):
    """The libraries to preload for -fsanitize=address."""
    paths = [  # without the second, exceptions of the process are not found
        run(find(compiler, package=PACKAGES[compiler]), f"-print-file-name={name}").strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    if not all(map(os.path.isabs, paths)):
        pytest.skip(
            f"{compiler} has no libasan: apt-get install g++, or dnf install libasan libubsan"
        )
    return paths


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


def make_package(directory, compiler, *flags):
    """Copy the package to `directory` and compile its library with `compiler`."""
    package = directory / "mrcnn_plugin"
    shutil.copytree(ROOT / "mrcnn_plugin", package, ignore=shutil.ignore_patterns("*.so"))
    libraries = (*(f"-L{path}" for path in library_paths()), "-ltorch", "-ltorch_cpu", "-lc10")
    library = package / "_C.abi3.so"
    compile_with(compiler, "-shared", *flags, *SOURCES, *libraries, "-o", library)


def run_tests(directory, *names, **environment):
    """Run tests of RoIAlign in a process that imports the package from `directory`."""
    path = os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")])
    run(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"),
        *("--rootdir", ROOT, "-c", ROOT / "pyproject.toml"),
        *(TESTS / f"test_{name}.py" for name in names),
        # Tests that start processes are excluded, because those would import this checkout.
        *("-k", "not (instruction or benchmark_runs or bad_input or documents)", "-s"),
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


NAMES = ("roi_align", "roi_align_errors", "roi_align_kernels", "multiscale_roi_align")


@pytest.mark.slow
def test_library_of_clang(tmp_path):
    make_package(tmp_path, "clang++", "-O3")
    run_tests(tmp_path, *NAMES)


@pytest.mark.slow
def test_no_access_is_out_of_bounds_and_no_behaviour_undefined(tmp_path):
    """Runs with every instruction set that this processor supports."""
    import torch

    import mrcnn_plugin  # noqa: F401

    sanitizers("g++")
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g1")
    make_package(tmp_path, "g++", "-O1", *flags)
    environment = {"LD_PRELOAD": " ".join(sanitizers("g++")), "ASAN_OPTIONS": "detect_leaks=0"}
    run_tests(tmp_path, *NAMES, "roi_align_faults", **environment)
    pytest.importorskip("hypothesis", reason="pip install hypothesis, or make setup")
    run_tests(tmp_path, "roi_align_properties", MRCNN_PROPERTY_CASES="300", **environment)
    isas = ("baseline", "avx2", "avx512")
    for isa in isas[: isas.index(torch.ops.mrcnn_plugin.cpu_isa())]:
        run_tests(tmp_path, "roi_align_kernels", MRCNN_PLUGIN_ISA=isa, **environment)
