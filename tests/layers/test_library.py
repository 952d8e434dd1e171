"""Which compiled libraries the package loads."""

import sys
from pathlib import Path

import pytest

import mrcnn_plugin
from mrcnn_plugin.layers._library import cuda_libraries


@pytest.mark.parametrize("cuda, loads", [("13.0", True), ("13.2", True), ("12.8", False)])
def test_cuda_kernels_need_a_torch_of_the_same_major_version(tmp_path, cuda, loads):
    library = tmp_path / "_C_cuda13.abi3.so"
    library.touch()
    assert cuda_libraries(tmp_path, cuda) == [library] * loads


def test_cuda_kernels_are_not_loaded_into_a_torch_without_cuda(tmp_path):
    (tmp_path / "_C_cuda13.abi3.so").touch()
    assert cuda_libraries(tmp_path, None) == []


@pytest.mark.skipif(sys.platform != "linux", reason="for Linux's C++ library: run it on Linux")
def test_the_libraries_use_the_cpp_library_of_torch():
    """With a copy of their own, an error message with a number in it crashes the process."""
    libraries = list(Path(mrcnn_plugin.__file__).parent.glob("_C*.so"))
    assert libraries and all(b"libstdc++.so.6" in path.read_bytes() for path in libraries)
