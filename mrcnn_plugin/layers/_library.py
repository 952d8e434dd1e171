"""Loads the compiled ops, and holds what they share towards PyTorch: shapes and layouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ._arguments import MODES

PACKAGE = Path(__file__).parents[1]


def _load_libraries() -> None:
    libraries = [PACKAGE / "_C.abi3.so"]
    fix = "Run `pip install --no-build-isolation -e .` or `make setup` in the checkout."
    if not libraries[0].exists():
        raise ImportError(
            f"mrcnn_plugin's compiled library (mrcnn_plugin/_C.abi3.so) is missing. {fix}"
        )
    try:
        for library in [*libraries, *cuda_libraries(PACKAGE, torch.version.cuda)]:
            torch.ops.load_library(library)
    except OSError as error:
        raise ImportError(
            f"mrcnn_plugin's compiled library does not load with torch {torch.__version__} "
            f"({error}). To rebuild it: {fix}"
        ) from error


def cuda_libraries(package: Path, cuda: str | None) -> list[Path]:
    """The library of CUDA kernels in `package` for a torch built with the version `cuda`, if any.

    It links the CUDA runtime of torch, so the major versions must be equal.
    """
    library = package / f"_C_cuda{(cuda or 'none').split('.')[0]}.abi3.so"
    return [library] if library.exists() else []


_load_libraries()


def empty_maps(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Maps (N, C, H, W) of the dtype and device of `like`, channels-last if it is."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=_layout(like))


def empty_result(
    features: Tensor, rois: Tensor, height: int, width: int, mode: int, bin_stride: int
) -> tuple[Tensor, Tensor]:
    """Output and argmax of the forward ops, for maps laid out as `features`."""
    bins = [(size - 1) // bin_stride + 1 for size in (height, width)]
    output = empty_maps(features, (rois.shape[0], features.shape[1], *bins))
    if MODES[mode] == "max":
        layout = _layout(features)
        return output, torch.empty_like(output, dtype=torch.int32, memory_format=layout)
    return output, features.new_empty((0,), dtype=torch.int32)


def check_twice_differentiable(mode: int) -> None:
    """The average is linear in the features, so its second derivative is the forward op again."""
    if MODES[mode] == "max":
        raise RuntimeError(
            "mrcnn_plugin.roi_align with mode='max' cannot be differentiated twice. Use "
            "mode='avg', which can."
        )


def _layout(like: Tensor) -> torch.memory_format:
    channels_last = like.is_contiguous(memory_format=torch.channels_last)
    return (
        torch.channels_last
        if channels_last and not like.is_contiguous()
        else torch.contiguous_format
    )
