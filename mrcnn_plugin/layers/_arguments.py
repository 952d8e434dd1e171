"""The arguments that `roi_align` and `multiscale_roi_align` share, and their checks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

FEATURE_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ROI_DTYPES = (torch.float32, torch.float64)
MODES = ("avg", "max")  # the ops take the index: Mode in csrc/roi_align.h
MOST_SAMPLES = {"avg": 2**31 - 1, "max": 2**15 - 1}  # csrc/roi_align.h


def pair(output_size: int | tuple[int, int]) -> tuple[int, int]:
    pair = (output_size, output_size) if isinstance(output_size, int) else output_size
    if not (
        isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(n, int) for n in pair)
    ):
        raise TypeError(
            f"output_size must be an int or two ints (height, width), got {output_size!r}"
        )
    if pair[0] < 1 or pair[1] < 1:
        raise ValueError(f"output_size must be positive, got {output_size!r}")
    return tuple(pair)


def check_options(spatial_scale: float, sampling_ratio: int, mode: str, bin_stride: int) -> None:
    if not 0 < spatial_scale < math.inf:
        raise ValueError(f"spatial_scale must be finite and positive, got {spatial_scale!r}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    for name, value in (("sampling_ratio", sampling_ratio), ("bin_stride", bin_stride)):
        if not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {value!r}")
    if not 0 <= sampling_ratio <= MOST_SAMPLES[mode]:
        raise ValueError(
            f"sampling_ratio must be 0 (adaptive) to {MOST_SAMPLES[mode]} for mode {mode!r}, "
            f"got {sampling_ratio}"
        )
    if bin_stride < 1:
        raise ValueError(f"bin_stride must be at least 1, got {bin_stride}")


def check_features(features: Tensor) -> None:
    if not isinstance(features, Tensor):
        raise TypeError(f"features must be a tensor, got {type(features).__name__}")
    if features.dim() != 4:
        raise ValueError(f"features must be (N, C, H, W), got shape {tuple(features.shape)}")
    if features.dtype not in FEATURE_DTYPES:
        raise TypeError(f"features must be one of {FEATURE_DTYPES}, got {features.dtype}")
    _check_differentiation(features)


def _check_differentiation(tensor: Tensor) -> None:
    if forward_ad.unpack_dual(tensor).tangent is not None:  # torch would return a zero tangent
        raise RuntimeError("RoIAlign has no forward-mode derivative: use the backward")


def _is(size: int | Tensor, expected: int) -> bool:
    """size == expected. True in torch.jit.trace, where sizes are data and the op checks them."""
    return torch.jit.is_tracing() or size == expected


def check_rois(rois: Tensor, features: Tensor) -> None:
    if rois.dim() != 2 or not _is(rois.shape[1], 5):
        raise ValueError(
            "rois must be (R, 5): batch index, x1, y1, x2, y2; or a list of (R_i, 4) boxes, one "
            f"tensor per image. Got shape {tuple(rois.shape)}"
        )
    if rois.dtype not in ROI_DTYPES:
        raise TypeError(
            f"rois must be float32 or float64, got {rois.dtype}: half precision moves a box by "
            "pixels; keep boxes in float32 whatever the features are"
        )
    if rois.device != features.device:
        raise ValueError(
            f"rois are on {rois.device} but features on {features.device}: move them to one device"
        )
    if rois.requires_grad and torch.is_grad_enabled():
        raise ValueError("RoIAlign has no gradient to the boxes: pass rois.detach()")
    _check_differentiation(rois)


def check_boxes(boxes: Sequence[Tensor], features: Tensor) -> None:
    """Check RoIs as N tensors (R_i, 4), the boxes of each image."""
    if not isinstance(boxes, (list, tuple)) or not all(isinstance(b, Tensor) for b in boxes):
        raise TypeError(f"rois must be a tensor or a list of tensors, got {type(boxes).__name__}")
    if not _is(features.shape[0], len(boxes)):
        raise ValueError(
            f"rois as a list must have one tensor per image, got {len(boxes)} tensors for "
            f"{features.shape[0]} images"
        )
    for image, b in enumerate(boxes):
        if b.dim() != 2 or not _is(b.shape[1], 4):
            raise ValueError(f"rois[{image}] must be (R_i, 4) boxes, got shape {tuple(b.shape)}")


def with_batch_index(boxes: list[Tensor], features: Tensor) -> Tensor:
    """N tensors (R_i, 4) -> (sum of R_i, 5) with the batch index first."""
    if len(boxes) == 0:
        return torch.zeros((0, 5), dtype=torch.float32, device=features.device)
    indexed = [torch.cat([torch.full_like(b[:, :1], i), b], 1) for i, b in enumerate(boxes)]
    return torch.cat(indexed)
