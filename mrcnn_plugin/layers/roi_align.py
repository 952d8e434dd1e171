"""RoIAlign (Mask R-CNN, Sec. 3) pools each RoI into a small feature map without quantization.

A RoI is divided into bins, and each bin is the average or the maximum of bilinear samples:

    RoI -> output_size bins -> sampling_ratio x sampling_ratio samples per bin -> bilinear values

The arithmetic is native (`csrc/`). This module checks the arguments and registers gradients and
output shapes with PyTorch.
"""

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

__all__ = ["RoIAlign", "roi_align"]


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
    """Pool each RoI of `features` into a small map by RoIAlign (Mask R-CNN, Sec. 3).

    Args:
        features: (N, C, H, W) float64, float32, float16 or bfloat16, in any memory layout.
        rois: (R, 5) float32 or float64, whatever the dtype of the features: batch index, x1, y1,
            x2, y2 in input-image pixels, x along W. Or N tensors (R_i, 4), the boxes of each image.
        output_size: the number of bins, P or (P_height, P_width).
        spatial_scale: the number of feature-map pixels per input-image pixel (1/16 for a C4 map).
        sampling_ratio: samples per bin along each axis; 2 means four samples per bin. 0 adapts it
            to the RoI: ceil(RoI size in feature-map pixels / output_size) along each axis.
        aligned: if True, coordinate c lies in pixel floor(c), whose centre is at floor(c) + 0.5.
            With spatial_scale 1, a sample at x = 2.0 is then halfway between pixels 1 and 2, and on
            the ramp f(j) = j its value is 1.5. If False, the centre of pixel j is at j, so the same
            sample reads pixel 2 and its value is 2.0, which shifts the features by half a pixel;
            RoIs are also enlarged to at least one feature-map pixel. Use False only for weights
            that were trained with it.
        mode: "avg" averages the bilinear samples of a bin, "max" takes their maximum.
        bin_stride: compute only bins 0, n, 2n, ... of the output_size grid along both axes.

    Returns:
        (R, C, ceil(P_height / bin_stride), ceil(P_width / bin_stride)) in the dtype of the
        features, channels-last if they are. Coordinates and sums are float32, or float64 if the
        features are; coordinates are also float64 if the RoIs are.

    Note:
        * Boxes get no gradient. The backward is deterministic. For "avg" it can be differentiated
          again, any number of times; for "max" it raises a RuntimeError.
        * A sample more than one pixel beyond the outermost pixel centres is outside the map and
          counts as 0, in the average and in the maximum. Nearer samples get the border's value.
        * The gradient of a maximum goes to the first of equal samples in row-major order. There is
          no gradient if a sample outside the map exceeds all those inside. A NaN sample makes the
          maximum NaN.
        * A pixel whose weight is exactly zero is not read, so NaN and infinity stay in the bins
          whose samples they are neighbours of.
        * A box with a NaN or infinite coordinate yields zeros and no gradient. So does an adaptive
          grid of more than 2^53 ("max": 32767) samples per bin along an axis; up to that limit, the
          cost of a RoI does not grow with its size.
        * With aligned=True and sampling_ratio=0, an empty or reversed box yields zeros.
        * On CUDA, checking batch indices would require a device synchronization, so a RoI whose
          index is not an integer from 0 to N - 1 yields zeros and no gradient. The CPU raises.
        * TorchScript compiles no function with keyword-only arguments. Script `RoIAlign` instead.

    Raises:
        TypeError, ValueError: an argument has a wrong type, dtype, shape, device or range.
        RuntimeError: a batch index is out of range (CPU).
    """
    return pool(
        features, rois, pair(output_size), spatial_scale, sampling_ratio, aligned, mode, bin_stride
    )


@torch.fx.wrap  # one node of a symbolic trace, whose values have no shape or dtype to check
def pool(
    features: Tensor,
    rois: Tensor | list[Tensor],
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    mode: str,
    bin_stride: int,
) -> Tensor:
    """`roi_align` as TorchScript compiles it, which has no keyword-only arguments.

    It cannot compile the checks either. Scripted, the op itself checks what would be unsafe.
    """
    if not torch.jit.is_scripting():
        check_features(features)
        check_options(spatial_scale, sampling_ratio, mode, bin_stride)
        if not isinstance(rois, Tensor):
            check_boxes(rois, features)
    if not isinstance(rois, Tensor):
        rois = with_batch_index(rois, features)
    if not torch.jit.is_scripting():
        check_rois(rois, features)
    output, _ = torch.ops.mrcnn_plugin.roi_align(
        features,
        rois,
        output_size[0],
        output_size[1],
        spatial_scale,
        sampling_ratio,
        aligned,
        ["avg", "max"].index(mode),  # MODES, which TorchScript cannot read
        bin_stride,
    )
    return output


class RoIAlign(nn.Module):
    """`roi_align` as a module, with the same arguments."""

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
        check_options(spatial_scale, sampling_ratio, mode, bin_stride)
        self.output_size = pair(output_size)
        self.spatial_scale = float(spatial_scale)
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.mode = mode
        self.bin_stride = bin_stride

    def forward(self, features: Tensor, rois: Tensor | list[Tensor]) -> Tensor:
        """(N, C, H, W) and (R, 5), or N of (R_i, 4) -> (R, C, height, width): see `roi_align`."""
        return pool(
            features,
            rois,
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
            self.mode,
            self.bin_stride,
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}, "
            f"mode={self.mode!r}, bin_stride={self.bin_stride}"
        )


# ---- Registration with PyTorch -------------------------------------------------------------------


@torch.library.register_fake("mrcnn_plugin::roi_align")
def _(features, rois, height, width, spatial_scale, sampling_ratio, aligned, mode, bin_stride):
    return empty_result(features, rois, height, width, mode, bin_stride)


@torch.library.register_fake("mrcnn_plugin::roi_align_backward")
def _(grad_output, rois, argmax, batch, channels, height, width, *options):
    return empty_maps(grad_output, (batch, channels, height, width))


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


torch.library.register_autograd(
    "mrcnn_plugin::roi_align", _backward, setup_context=_save_for_backward
)


def _save_for_double_backward(ctx, inputs, output):
    _, rois, _, _, _, _, _, *ctx.options = inputs
    ctx.save_for_backward(rois)


def _double_backward(ctx, grad_grad_features):
    """The average is linear, so the derivative of its gradient to grad_output is the forward."""
    check_twice_differentiable(ctx.options[-2])
    grad_output, _ = torch.ops.mrcnn_plugin.roi_align(
        grad_grad_features, *ctx.saved_tensors, *ctx.options
    )
    return grad_output, *(None for _ in range(13))


torch.library.register_autograd(
    "mrcnn_plugin::roi_align_backward", _double_backward, setup_context=_save_for_double_backward
)
