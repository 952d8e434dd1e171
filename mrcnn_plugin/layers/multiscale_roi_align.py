"""RoIAlign on a feature pyramid pools each RoI from the level that belongs to its size.

    rois -> level of each -> RoIAlign on that level's map -> one tensor, in the order of the RoIs

Levels are assigned as in detectron2 (Feature Pyramid Networks, eq. 1). One call of the native op
pools from all levels into one output, without sorting, splitting or device synchronization.
"""

import math
from collections.abc import Sequence

import torch
import torch.fx
from torch import Tensor, nn

from . import _vmap  # noqa: F401  registers the rules of torch.vmap
from ._arguments import (
    check_boxes,
    check_features,
    check_options,
    check_rois,
    pair,
    with_batch_index,
)
from ._library import check_twice_differentiable, empty_maps, empty_result

__all__ = ["MultiScaleRoIAlign", "assign_levels", "multiscale_roi_align"]


def assign_levels(
    rois: Tensor,
    min_level: int,
    max_level: int,
    canonical_box_size: float = 224,
    canonical_level: int = 4,
) -> Tensor:
    """Assign each RoI to a pyramid level.

    The level is floor(canonical_level + log2(sqrt(area) / canonical_box_size + 1e-8)), clamped to
    [min_level, max_level]. A pixel of level k covers 2^k x 2^k input-image pixels.

    Args:
        rois: (R, 5), batch index, x1, y1, x2, y2 in input-image pixels.

    Returns:
        (R,) int64, the level minus min_level. A box whose area is negative or NaN is assigned to 0.
    """
    width, height = rois[:, 3] - rois[:, 1], rois[:, 4] - rois[:, 2]
    size = torch.sqrt(width * height)
    level = torch.floor(canonical_level + torch.log2(size / canonical_box_size + 1e-8))
    level = torch.clamp(torch.nan_to_num(level, nan=float(min_level)), min=min_level, max=max_level)
    return level.to(torch.int64) - min_level


def multiscale_roi_align(
    features: Sequence[Tensor],
    rois: Tensor | Sequence[Tensor],
    output_size: int | tuple[int, int],
    spatial_scales: Sequence[float],
    sampling_ratio: int = 0,
    *,
    aligned: bool = True,
    mode: str = "avg",
    bin_stride: int = 1,
    canonical_box_size: float = 224,
    canonical_level: int = 4,
) -> Tensor:
    """`roi_align` of each RoI on its level of a feature pyramid. The notes there apply here too.

    Args:
        features: maps (N, C, H_l, W_l) of one dtype, the finest first; on CUDA at most 8.
        rois: (R, 5) or N tensors (R_i, 4), as in `roi_align`.
        output_size, sampling_ratio, aligned, mode, bin_stride: as in `roi_align`.
        spatial_scales: for each map its number of pixels per input-image pixel. These are
            successive powers of two, such as (1/4, 1/8, 1/16, 1/32) for P2 to P5.
        canonical_box_size, canonical_level: a box of canonical_box_size^2 input-image pixels is
            assigned to level canonical_level, whose stride is 2^canonical_level.

    Returns:
        (R, C, h, w) as in `roi_align`, in the order of the RoIs and the layout of the first map.

    Raises:
        TypeError, ValueError: an argument has a wrong type, dtype, shape, device or range.
        RuntimeError: a batch index is out of range (CPU).
    """
    first_level, last_level = _level_range(spatial_scales)
    return pool_levels(
        features, rois, pair(output_size), first_level, last_level, sampling_ratio, aligned, mode,
        bin_stride, canonical_box_size, canonical_level,
    )  # fmt: skip


@torch.fx.wrap  # one node of a symbolic trace, as `pool` of `roi_align`
def pool_levels(
    features: list[Tensor],
    rois: Tensor | list[Tensor],
    output_size: tuple[int, int],
    first_level: int,
    last_level: int,
    sampling_ratio: int,
    aligned: bool,
    mode: str,
    bin_stride: int,
    canonical_box_size: float,
    canonical_level: int,
) -> Tensor:
    """`multiscale_roi_align` as TorchScript compiles it, without the checks."""
    scales = [2.0**-level for level in range(first_level, last_level + 1)]
    if not torch.jit.is_scripting():
        _check_pyramid(features, scales)
        check_options(scales[0], sampling_ratio, mode, bin_stride)
        _check_canonical(canonical_box_size)
        if not isinstance(rois, Tensor):
            check_boxes(rois, features[0])
    if not isinstance(rois, Tensor):
        rois = with_batch_index(rois, features[0])
    if not torch.jit.is_scripting():
        check_rois(rois, features[0])
    levels = assign_levels(rois, first_level, last_level, canonical_box_size, canonical_level)
    output, _ = torch.ops.mrcnn_plugin.roi_align_levels(
        features,
        rois,
        levels,
        output_size[0],
        output_size[1],
        scales,
        sampling_ratio,
        aligned,
        ["avg", "max"].index(mode),  # MODES, which TorchScript cannot read
        bin_stride,
    )
    return output


class MultiScaleRoIAlign(nn.Module):
    """`multiscale_roi_align` as a module, with the same arguments."""

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scales: Sequence[float],
        sampling_ratio: int = 0,
        *,
        aligned: bool = True,
        mode: str = "avg",
        bin_stride: int = 1,
        canonical_box_size: float = 224,
        canonical_level: int = 4,
    ):
        super().__init__()
        self.output_size = pair(output_size)
        self.first_level, self.last_level = _level_range(spatial_scales)
        check_options(spatial_scales[0], sampling_ratio, mode, bin_stride)
        _check_canonical(canonical_box_size)
        self.spatial_scales = tuple(spatial_scales)
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.mode = mode
        self.bin_stride = bin_stride
        self.canonical_box_size = float(canonical_box_size)
        self.canonical_level = canonical_level

    def forward(self, features: list[Tensor], rois: Tensor | list[Tensor]) -> Tensor:
        """Maps (N, C, H_l, W_l), and (R, 5) or N of (R_i, 4) -> (R, C, height, width)."""
        return pool_levels(
            features,
            rois,
            self.output_size,
            self.first_level,
            self.last_level,
            self.sampling_ratio,
            self.aligned,
            self.mode,
            self.bin_stride,
            self.canonical_box_size,
            self.canonical_level,
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scales={self.spatial_scales}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}, "
            f"mode={self.mode!r}, bin_stride={self.bin_stride}"
        )


# ---- Arguments -----------------------------------------------------------------------------------


def _check_pyramid(features: Sequence[Tensor], spatial_scales: Sequence[float]) -> None:
    if isinstance(features, Tensor) or not isinstance(features, Sequence):
        raise TypeError(f"features must be a list of maps, got {type(features).__name__}")
    if len(features) != len(spatial_scales):
        raise ValueError(
            f"features must have one map per spatial scale, got {len(features)} maps for "
            f"{len(spatial_scales)} scales"
        )
    for maps in features:
        check_features(maps)
        first = features[0]
        if maps.shape[:2] != first.shape[:2] or maps.dtype != first.dtype:
            raise ValueError(
                "all maps must have the same N, C and dtype, got "
                f"{[(tuple(m.shape), m.dtype) for m in features]}"
            )
        if maps.device != first.device:
            raise ValueError(f"maps are on {first.device} and {maps.device}: use one device")


def _level_range(spatial_scales: Sequence[float]) -> tuple[int, int]:
    """The first and the last level, where level k has the scale 2^-k."""
    scales = list(spatial_scales)
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"spatial_scales must be finite and positive, got {spatial_scales!r}")
    first = round(-math.log2(scales[0]))
    if scales != [2.0 ** -(first + i) for i in range(len(scales))]:
        raise ValueError(
            "spatial_scales must be successive powers of two, the finest map first, as "
            f"(1/4, 1/8, 1/16, 1/32); got {spatial_scales!r}"
        )
    return first, first + len(scales) - 1


def _check_canonical(canonical_box_size: float) -> None:
    if not 0 < canonical_box_size < math.inf:
        raise ValueError(
            f"canonical_box_size must be finite and positive, got {canonical_box_size!r}"
        )


# ---- Registration with PyTorch -------------------------------------------------------------------


@torch.library.register_fake("mrcnn_plugin::roi_align_levels")
def _(features, rois, levels, height, width, spatial_scales, ratio, aligned, mode, bin_stride):
    return empty_result(features[0], rois, height, width, mode, bin_stride)


@torch.library.register_fake("mrcnn_plugin::roi_align_levels_backward")
def _(grad_output, rois, levels, level, argmax, batch, channels, height, width, *options):
    return empty_maps(grad_output, (batch, channels, height, width))


def _save_for_backward(ctx, inputs, output):
    features, rois, levels, ctx.height, ctx.width, ctx.spatial_scales, *ctx.options = inputs
    ctx.shapes = [maps.shape for maps in features]
    ctx.save_for_backward(rois, levels, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_output, _grad_argmax):
    grads = [None] * len(ctx.shapes)
    if grad_output is not None:
        rois, levels, argmax = ctx.saved_tensors
        for level, needed in enumerate(ctx.needs_input_grad[0]):
            if needed:
                grads[level] = torch.ops.mrcnn_plugin.roi_align_levels_backward(
                    grad_output, rois, levels, level, argmax, *ctx.shapes[level], ctx.height,
                    ctx.width, ctx.spatial_scales[level], *ctx.options,
                )  # fmt: skip
    return grads, *(None for _ in range(9))


torch.library.register_autograd(
    "mrcnn_plugin::roi_align_levels", _backward, setup_context=_save_for_backward
)


def _save_for_double_backward(ctx, inputs, output):
    _, rois, levels, ctx.level, _, _, _, _, _, *ctx.options = inputs
    ctx.save_for_backward(rois, levels)


def _double_backward(ctx, grad_grad_features):
    """The forward on this level, and zero for the RoIs of other levels."""
    check_twice_differentiable(ctx.options[-2])
    rois, levels = ctx.saved_tensors
    pooled, _ = torch.ops.mrcnn_plugin.roi_align(grad_grad_features, rois, *ctx.options)
    here = (levels == ctx.level)[:, None, None, None]
    return torch.where(here, pooled, torch.zeros_like(pooled)), *(None for _ in range(15))


torch.library.register_autograd(
    "mrcnn_plugin::roi_align_levels_backward",
    _double_backward,
    setup_context=_save_for_double_backward,
)
