"""RoIAlign (Mask R-CNN, Sec. 3): a small feature map for each RoI, without any quantisation.

A RoI is divided into bins and each bin is the average, or the maximum, of bilinear samples:

    RoI -> output_size bins -> sampling_ratio x sampling_ratio samples a bin -> bilinear value

The arithmetic is native (`csrc/`); this module is its public face and holds what PyTorch needs to
know about the ops: gradients, shapes, and which inputs are refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = ["RoIAlign", "roi_align"]

FEATURE_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ROI_DTYPES = (torch.float32, torch.float64)
MODES = ("avg", "max")
MOST_SAMPLES = {"avg": 2**31 - 1, "max": 2**15 - 1}  # csrc/roi_align_arguments.h


def _load_library() -> None:
    libraries = sorted(Path(__file__).parents[1].glob("_C*.so"))
    mend = "run `pip install --no-build-isolation -e .` or `make setup` in the checkout"
    if not libraries:
        raise ImportError(
            f"mrcnn_plugin's compiled library (mrcnn_plugin/_C*.so) is missing: {mend}"
        )
    try:
        torch.ops.load_library(libraries[0])
    except OSError as error:
        raise ImportError(
            f"mrcnn_plugin's compiled library does not load with torch {torch.__version__} "
            f"({error}): to rebuild it, {mend}"
        ) from error


_load_library()


def roi_align(
    features: Tensor,
    rois: Tensor | Sequence[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    *,
    aligned: bool = True,
    mode: str = "avg",
    bin_stride: int = 1,
) -> Tensor:
    """RoIAlign of `features` in every RoI.

    Args:
        features: (N, C, H, W), float64, float32, float16 or bfloat16, of any layout.
        rois: (R, 5) float32 or float64 whatever the features are: batch index, x1, y1, x2, y2.
            Boxes are in input-image pixels; x runs along W. Or a sequence of N tensors (R_i, 4),
            the boxes of each image. Boxes get no gradient.
        output_size: the number of bins, P or (P_height, P_width).
        spatial_scale: feature-map pixels for one input-image pixel (1/16 for a C4 map).
        sampling_ratio: samples in a bin along each axis: 2 is four samples a bin. 0 adapts it to
            the RoI: ceil(RoI size / output size) along each axis.
        aligned: the centre of pixel (i, j) is at (i + 0.5, j + 0.5). False is the older convention
            in which it is at (i, j) and a RoI is at least one feature-map pixel wide and high.
        mode: "avg", or "max": the maximum over the bilinearly interpolated samples.
        bin_stride: compute the bins 0, n, 2n, ... of the output_size grid alone, along both axes.

    Returns:
        (R, C, ceil(P_height / bin_stride), ceil(P_width / bin_stride)), of the dtype of the
        features, channels-last if they are. Sums are float32 (float64 for float64 features), and so
        are coordinates (float64 if either the features or the RoIs are).

    What is not obvious:
        * A sample more than one pixel beyond the outermost pixel centres is off the map and counts
          as 0, in the average and in the maximum. Nearer ones take the value at the border.
        * A maximum has its gradient at its first sample in row-major order among equals on the map,
          and nowhere when a sample off the map is greater than all of those on it. A NaN sample
          makes the maximum NaN.
        * A pixel whose weight is exactly zero is not read, so NaN and infinity stay in the bins
          that their neighbourhood belongs to.
        * A box with a NaN or infinite coordinate gives 0 and no gradient. So does an adaptive grid
          of more than 2^53 ("max": 32767) samples in a bin and axis; up to there the cost of a RoI
          does not grow with its size.
        * aligned=True and sampling_ratio=0 gives 0 in a box without area and in a reversed one.
        * On the CPU a batch index that is not an integer from 0 to N - 1 raises RuntimeError. On
          CUDA, where finding out would wait for the device, such a RoI gives 0 and no gradient.
        * The backward is deterministic. It cannot be differentiated again.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, dtype, shape, device or range.
        RuntimeError: a batch index is out of range (CPU).
    """
    _check_features(features)
    height, width = _pair(output_size)
    _check_options(spatial_scale, sampling_ratio, mode, bin_stride)
    if not isinstance(rois, Tensor):
        rois = _with_batch_index(rois, features)
    _check_rois(rois, features)
    output, _ = torch.ops.mrcnn_plugin.roi_align(
        features, rois, height, width, spatial_scale, sampling_ratio, aligned, mode, bin_stride
    )
    return output


class RoIAlign(nn.Module):
    """`roi_align` with its options fixed; `forward(features, rois)`."""

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        *,
        aligned: bool = True,
        mode: str = "avg",
        bin_stride: int = 1,
    ):
        super().__init__()
        _check_options(spatial_scale, sampling_ratio, mode, bin_stride)
        self.output_size = _pair(output_size)
        self.spatial_scale = float(spatial_scale)
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.mode = mode
        self.bin_stride = bin_stride

    def forward(self, features: Tensor, rois: Tensor | list[Tensor]) -> Tensor:
        """(N, C, H, W) and (R, 5), or N of (R_i, 4) -> (R, C, height, width): see `roi_align`."""
        if torch.jit.is_scripting():  # TorchScript knows the op, which checks its arguments too
            assert isinstance(rois, Tensor), "a scripted RoIAlign takes rois as one (R, 5) tensor"
            output, _ = torch.ops.mrcnn_plugin.roi_align(
                features,
                rois,
                self.output_size[0],
                self.output_size[1],
                self.spatial_scale,
                self.sampling_ratio,
                self.aligned,
                self.mode,
                self.bin_stride,
            )
        else:
            output = roi_align(
                features,
                rois,
                self.output_size,
                self.spatial_scale,
                self.sampling_ratio,
                aligned=self.aligned,
                mode=self.mode,
                bin_stride=self.bin_stride,
            )
        return output

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}, "
            f"mode={self.mode!r}, bin_stride={self.bin_stride}"
        )


# ---- Arguments -----------------------------------------------------------------------------------


def _pair(output_size: int | tuple[int, int]) -> tuple[int, int]:
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


def _check_options(spatial_scale: float, sampling_ratio: int, mode: str, bin_stride: int) -> None:
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


def _check_features(features: Tensor) -> None:
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
    """size == expected; True in torch.jit.trace, where a size is data and the op checks it."""
    return torch.jit.is_tracing() or size == expected


def _check_rois(rois: Tensor, features: Tensor) -> None:
    if rois.dim() != 2 or not _is(rois.shape[1], 5):
        raise ValueError(
            "rois must be (R, 5): batch index, x1, y1, x2, y2; or a list of (R_i, 4) boxes, one "
            f"tensor an image. Got shape {tuple(rois.shape)}"
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


def _with_batch_index(boxes: Sequence[Tensor], features: Tensor) -> Tensor:
    """N tensors (R_i, 4) -> (sum of R_i, 5)."""
    if not isinstance(boxes, (list, tuple)) or not all(isinstance(b, Tensor) for b in boxes):
        raise TypeError(f"rois must be a tensor or a list of tensors, got {type(boxes).__name__}")
    if not _is(features.shape[0], len(boxes)):
        raise ValueError(
            f"rois as a list needs one tensor an image: got {len(boxes)} for {features.shape[0]}"
        )
    for image, b in enumerate(boxes):
        if b.dim() != 2 or not _is(b.shape[1], 4):
            raise ValueError(f"rois[{image}] must be (R_i, 4) boxes, got shape {tuple(b.shape)}")
    if not boxes:
        return features.new_zeros((0, 5), dtype=torch.float32)
    indexed = [torch.cat([torch.full_like(b[:, :1], i), b], 1) for i, b in enumerate(boxes)]
    return torch.cat(indexed)


# ---- What PyTorch needs to know about the ops ----------------------------------------------------


def _kept_bins(pooled: int, bin_stride: int) -> int:
    return (pooled - 1) // bin_stride + 1


def _layout(like: Tensor) -> torch.memory_format:
    channels_last = like.is_contiguous(memory_format=torch.channels_last)
    return (
        torch.channels_last
        if channels_last and not like.is_contiguous()
        else torch.contiguous_format
    )


def _empty_maps(like: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=_layout(like))


def _empty_result(
    features: Tensor, rois: Tensor, height: int, width: int, mode: str, bin_stride: int
) -> tuple[Tensor, Tensor]:
    shape = (
        rois.shape[0],
        features.shape[1],
        _kept_bins(height, bin_stride),
        _kept_bins(width, bin_stride),
    )
    output = _empty_maps(features, shape)
    if mode == "max":
        layout = _layout(features)
        return output, torch.empty_like(output, dtype=torch.int32, memory_format=layout)
    return output, features.new_empty((0,), dtype=torch.int32)


@torch.library.register_fake("mrcnn_plugin::roi_align")
def _(features, rois, height, width, spatial_scale, sampling_ratio, aligned, mode, bin_stride):
    return _empty_result(features, rois, height, width, mode, bin_stride)


@torch.library.register_fake("mrcnn_plugin::roi_align_backward")
def _(grad_output, rois, argmax, batch, channels, height, width, *options):
    return _empty_maps(grad_output, (batch, channels, height, width))


def _save_for_backward(ctx, inputs, output):
    features, rois, *ctx.options = inputs
    ctx.shape = features.shape
    ctx.save_for_backward(rois, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_output, _grad_argmax):
    grad_features = None
    if grad_output is not None and ctx.needs_input_grad[0]:
        rois, argmax = ctx.saved_tensors
        grad_features = torch.ops.mrcnn_plugin.roi_align_backward(
            grad_output, rois, argmax, *ctx.shape, *ctx.options
        )
    return grad_features, *(None for _ in range(8))


def _no_double_backward(ctx, *_grads):
    raise RuntimeError("mrcnn_plugin.roi_align cannot be differentiated twice")


torch.library.register_autograd(
    "mrcnn_plugin::roi_align", _backward, setup_context=_save_for_backward
)
torch.library.register_autograd("mrcnn_plugin::roi_align_backward", _no_double_backward)
