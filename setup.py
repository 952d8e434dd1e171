"""Builds `mrcnn_plugin._C`, the native ops. Everything else about the package is in pyproject.toml.

Environment: FORCE_CUDA=1 or 0 (default: CUDA when both torch and nvcc have it), CUDA_HOME,
TORCH_CUDA_ARCH_LIST (default: the visible GPU, else 8.0;9.0+PTX), MAX_JOBS.
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
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")

from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths  # noqa: E402


class AtomicBuildExtension(BuildExtension):
    """Replaces the library atomically, so that processes that have it loaded keep the old one."""

    def finalize_options(self):
        super().finalize_options()
        self.force = True  # ninja decides what to rebuild, also after FORCE_CUDA has changed

    def copy_file(self, infile, outfile, *args, **kwargs):
        if not str(outfile).endswith(".so"):
            return super().copy_file(infile, outfile, *args, **kwargs)
        copied, done = super().copy_file(infile, f"{outfile}.new", *args, **kwargs)
        os.replace(copied, outfile)
        return outfile, done


def native_extension():
    # The stable ABI of torch 2.10: one library for every later torch. It uses no Python symbol
    # either, hence abi3. It registers its ops when torch.ops.load_library loads it.
    defines = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]
    # Without contraction, coordinates are rounded identically everywhere: see
    # csrc/roi_align_geometry.h. The prefix map makes paths in error messages relative.
    prefix = f"-ffile-prefix-map={ROOT}/="
    flags = {"cxx": [*defines, "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-g0", prefix]}
    sources = [str(path) for path in sorted(Path("csrc").rglob("*.cpp"))]
    libraries, library_dirs = ["torch", "torch_cpu", "c10"], library_paths()
    if WITH_CUDA:
        sources.append("csrc/cuda/roi_align.cu")
        flags["nvcc"] = [*defines, "-DUSE_CUDA", "-O3", "--fmad=false", "-Xcompiler", prefix]
        # Static, so that the library also loads on machines without CUDA.
        libraries += ["cudart_static", "rt", "dl", "pthread"]
        library_dirs += [str(CUDA_HOME / lib) for lib in ("lib64", "lib")]
    return Extension(
        "mrcnn_plugin._C",
        sources,
        depends=[
            str(path)
            for path in sorted([*Path("csrc").rglob("*.*h"), *Path("csrc").rglob("*.inc")])
        ],
        include_dirs=[
            str(Path(__file__).resolve().parent / "csrc"),
            *include_paths(device_type="cuda" if WITH_CUDA else "cpu"),
        ],
        library_dirs=library_dirs,
        libraries=libraries,
        extra_compile_args=flags,
        language="c++",
        py_limited_api=True,
    )


setup(
    # configs/ is at the top of a checkout and in the package of a wheel: see get_config_file.
    packages=[*find_packages(include=["mrcnn_plugin", "mrcnn_plugin.*"]), "mrcnn_plugin.configs"],
    package_dir={"mrcnn_plugin.configs": "configs"},
    package_data={
        "mrcnn_plugin.configs": ["**/*.yaml", "**/*.py"],
        "mrcnn_plugin.evaluation.report": ["templates/*"],
    },
    ext_modules=[native_extension()],
    cmdclass={"build_ext": AtomicBuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
