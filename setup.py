"""Builds the native ops: `mrcnn_plugin._C`, and with CUDA `mrcnn_plugin._C_cuda<major version>`.

Everything else about the package is in pyproject.toml.

Environment: FORCE_CUDA=1 or 0 (default: CUDA when both torch and nvcc have it), CUDA_HOME,
TORCH_CUDA_ARCH_LIST (default: the visible GPU, else those of DEFAULT_ARCHS), MAX_JOBS.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup

try:
    import torch
except ImportError:
    sys.exit(
        "mrcnn_plugin compiles against the torch it will run with: install torch 2.10 or later "
        "first, then `pip install --no-build-isolation .`"
    )

ROOT = Path(__file__).resolve().parent
DEFAULT_ARCHS = "7.5;8.0;9.0+PTX"  # newer GPUs compile the PTX of 9.0 at the first use


def find_cuda_home():
    """Return the first directory with nvcc and the headers; nvcc on the PATH may be a wrapper."""
    on_path = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates += [Path(on_path).resolve().parents[1]] if on_path else []
    candidates += ["/usr/local/cuda"]
    for home in map(Path, filter(None, candidates)):
        if (home / "bin/nvcc").exists() and (home / "include/cuda_runtime.h").exists():
            return home
    return None


def want_cuda(cuda_home):
    forced = os.environ.get("FORCE_CUDA")
    if forced not in (None, "", "0", "1"):
        sys.exit(f"FORCE_CUDA must be 0 or 1, got {forced!r}")
    if forced == "1" and cuda_home is None:
        sys.exit("FORCE_CUDA=1, but no CUDA toolkit with nvcc was found. Set CUDA_HOME to one")
    if forced == "1" and torch.version.cuda is None:
        sys.exit(f"FORCE_CUDA=1, but torch {torch.__version__} has no CUDA. Install a CUDA build")
    return forced == "1" or (forced != "0" and bool(cuda_home) and bool(torch.version.cuda))


CUDA_HOME = find_cuda_home()
WITH_CUDA = want_cuda(CUDA_HOME)
if WITH_CUDA:
    os.environ["CUDA_HOME"] = str(CUDA_HOME)  # torch.utils.cpp_extension reads it when imported
    if not torch.cuda.is_available():
        os.environ["TORCH_CUDA_ARCH_LIST"] = os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_ARCHS

from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths  # noqa: E402

PACKAGE = ROOT / "mrcnn_plugin"


class AtomicBuildExtension(BuildExtension):
    """Replaces the library atomically, so that processes that have it loaded keep the old one."""

    def finalize_options(self):
        super().finalize_options()
        self.force = True  # ninja decides what to rebuild, also after FORCE_CUDA has changed

    def run(self):
        super().run()
        if self.inplace and not WITH_CUDA:  # those of an earlier build would be loaded
            for library in PACKAGE.glob("_C_cuda*.so"):
                library.unlink()

    def copy_file(self, infile, outfile, *args, **kwargs):
        if not str(outfile).endswith(".so"):
            return super().copy_file(infile, outfile, *args, **kwargs)
        copied, done = super().copy_file(infile, f"{outfile}.new", *args, **kwargs)
        os.replace(copied, outfile)
        return outfile, done


# The stable ABI of torch 2.10: one library for every later torch. It uses no Python symbol either,
# hence abi3. It registers its ops when torch.ops.load_library loads it.
DEFINES = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]
# The prefix map makes paths in error messages relative.
HOST_FLAGS = ["-fvisibility=hidden", f"-ffile-prefix-map={ROOT}/="]


# torch's own libstdc++. Some compilers link a copy of it into the library instead; the two mix up
# each other's locales, and an error message with a number in it crashes.
LINK_FLAGS = ["-l:libstdc++.so.6"] if sys.platform == "linux" else []


def extension(name, sources, flags, libraries, device, library_dirs=()):
    headers = [path for pattern in ("*.*h", "*.inc") for path in Path("csrc").rglob(pattern)]
    return Extension(
        f"mrcnn_plugin.{name}",
        sources,
        depends=[str(path) for path in sorted(headers)],
        include_dirs=[str(ROOT / "csrc"), *include_paths(device_type=device)],
        library_dirs=[*library_paths(), *library_dirs],
        libraries=["torch", "torch_cpu", "c10", *libraries],
        extra_compile_args=flags,
        extra_link_args=LINK_FLAGS,
        language="c++",
        py_limited_api=True,
    )


def cpu_extension():
    # Without contraction, coordinates are rounded identically everywhere: see
    # csrc/roi_align_geometry.h.
    flags = {"cxx": [*DEFINES, *HOST_FLAGS, "-O3", "-ffp-contract=off", "-g0"]}
    sources = [str(path) for path in sorted(Path("csrc").rglob("*.cpp"))]
    return extension("_C", sources, flags, [], "cpu")


def cuda_extension():
    """A library of its own, which only a torch with the same CUDA major version loads.

    So it can use the CUDA runtime of torch, and `_C` also loads into a torch without CUDA.
    """
    nvcc = [*DEFINES, "-DUSE_CUDA", "-O3", "--fmad=false"]
    nvcc += [word for flag in HOST_FLAGS for word in ("-Xcompiler", flag)]
    return extension(
        f"_C_cuda{torch.version.cuda.split('.')[0]}",
        ["csrc/cuda/roi_align.cu", "csrc/cuda/nms.cu", "csrc/glibc.cpp"],
        {"cxx": HOST_FLAGS, "nvcc": nvcc},
        ["torch_cuda", "cudart"],
        "cuda",
        library_dirs=[str(CUDA_HOME / lib) for lib in ("lib64", "lib")],
    )


setup(
    # configs/ is at the top of a checkout and in the package of a wheel: see get_config_file.
    packages=[*find_packages(include=["mrcnn_plugin", "mrcnn_plugin.*"]), "mrcnn_plugin.configs"],
    package_dir={"mrcnn_plugin.configs": "configs"},
    package_data={
        "mrcnn_plugin.configs": ["**/*.yaml", "**/*.py"],
        "mrcnn_plugin.evaluation.report": ["templates/*"],
    },
    ext_modules=[cpu_extension(), *([cuda_extension()] if WITH_CUDA else [])],
    cmdclass={"build_ext": AtomicBuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
