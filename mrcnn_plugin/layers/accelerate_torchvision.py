"""Computes torchvision's own RoIAlign and NMS ops on the CPU by this plugin's kernels.

    torchvision::roi_align, torchvision::_roi_align_backward, torchvision::nms
        -> PyTorch's dispatcher, key CPU -> the functions below -> the native ops

Every program that calls these ops gets the kernels without a change: eager, scripted, compiled and
exported models of torchvision, detectron2 and others. The other keys (autograd, autocast, CUDA,
quantized tensors, shapes) keep torchvision's registrations.
"""

from __future__ import annotations

import logging
import threading
import warnings

import torch
from torch import Tensor

from . import _library  # noqa: F401  loads the ops
from ._arguments import FEATURE_DTYPES, MODES, ROI_DTYPES

__all__ = ["TorchvisionAcceleration", "accelerate_torchvision"]

logger = logging.getLogger(__name__)

_OPS = torch.ops.mrcnn_plugin
_AVERAGE = MODES.index("avg")
_NO_ARGMAX = torch.empty(0, dtype=torch.int32, device="cpu")

_lock = threading.Lock()
_active: set[TorchvisionAcceleration] = set()  # those that are not undone
_library_of_kernels: torch.library.Library | None = None  # since the first acceleration
_theirs = {}  # op name -> torchvision's CPU kernel


class TorchvisionAcceleration:
    """What `accelerate_torchvision` returns. As a context manager it is undone at the end."""

    def undo(self) -> None:
        """End this acceleration. Further calls have no effect.

        torchvision's own kernels compute again once every acceleration has been undone.
        """
        with _lock:
            if _active == {self}:
                logger.info("torchvision computes its roi_align and nms on the CPU again.")
            _active.discard(self)

    def __enter__(self) -> TorchvisionAcceleration:
        if self not in _active:
            raise RuntimeError(
                "This acceleration has been undone. Call mrcnn_plugin.accelerate_torchvision() "
                "for a new one."
            )
        return self

    def __exit__(self, *_) -> None:
        self.undo()


def accelerate_torchvision() -> TorchvisionAcceleration:
    """Let this plugin's CPU kernels compute torchvision's `roi_align` and `nms`, in any model.

    The change holds for the whole process and for all threads, until `undo()`:

        acceleration = mrcnn_plugin.accelerate_torchvision()
        ...
        acceleration.undo()

        with mrcnn_plugin.accelerate_torchvision():
            ...

    It may be called several times and from several threads. torchvision's kernels compute again
    once each of the returned objects has been undone, in any order. On CUDA, nothing changes.

    Results and gradients of `roi_align` are torchvision's up to rounding, those of `nms` are equal.
    docs/mixing.md lists the inputs for which they differ.

    Note:
        The first call registers functions with PyTorch's dispatcher. PyTorch does not lock its
        dispatch table, so make this call while no other thread runs these ops. For the same reason
        the functions stay registered. After the last `undo()`, they call torchvision's kernels,
        which costs some microseconds per call and holds Python's interpreter lock until they end.

    Raises:
        RuntimeError: torchvision has not been imported, or other Python code has already replaced
            one of these kernels.
    """
    global _library_of_kernels
    acceleration = TorchvisionAcceleration()
    with _lock:
        if _library_of_kernels is None:
            _library_of_kernels = _registered()
        if not _active:
            logger.info("mrcnn_plugin computes torchvision's roi_align and nms on the CPU.")
        _active.add(acceleration)
    return acceleration


def _registered() -> torch.library.Library:
    if not hasattr(torch.ops.torchvision, "roi_align"):
        raise RuntimeError(
            "There is no op torchvision::roi_align to accelerate, because torchvision has not been "
            "imported. Write `import torchvision` before the call."
        )
    for name in _KERNELS:
        _theirs[name] = torch.library.get_kernel(f"torchvision::{name}", "CPU")
    library = torch.library.Library("torchvision", "IMPL", "CPU")
    failure = None
    with warnings.catch_warnings():  # PyTorch warns that a kernel is replaced, which is the purpose
        warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
        for name, kernel in _KERNELS.items():
            try:
                library.impl(name, kernel, with_keyset=True)
            except RuntimeError as error:
                failure = (
                    f"The CPU kernel of torchvision::{name} has already been replaced by other "
                    f"Python code. Remove that kernel before the call. PyTorch reports: {error}"
                )
                break
    if failure is not None:
        del library  # a traceback would keep it, and with it the kernels that were registered
        raise RuntimeError(failure)
    return library


# ---- Kernels -------------------------------------------------------------------------------------
#
# Their results are contiguous, as torchvision's are: compiled programs rely on it.


def _roi_align(keys, features, rois, spatial_scale, height, width, sampling_ratio, aligned):
    if not _is_ours(features, rois, height, width):
        return _theirs["roi_align"].call_boxed(
            keys, features, rois, spatial_scale, height, width, sampling_ratio, aligned
        )
    if features.numel() < rois.shape[0] * features.shape[1] * height * width:
        features = features.contiguous()  # less to copy than a channels-last result
    output, _ = _OPS.roi_align.default(
        features, _wide(rois), height, width, spatial_scale, max(sampling_ratio, 0), aligned,
        _AVERAGE, 1,
    )  # fmt: skip
    return output.contiguous()


def _roi_align_backward(
    keys, grad, rois, spatial_scale, height, width, batch, channels, map_height, map_width,
    sampling_ratio, aligned,
):  # fmt: skip
    if not _is_ours(grad, rois, height, width):
        return _theirs["_roi_align_backward"].call_boxed(
            keys, grad, rois, spatial_scale, height, width, batch, channels, map_height, map_width,
            sampling_ratio, aligned,
        )  # fmt: skip
    if grad.numel() < batch * channels * map_height * map_width:
        grad = grad.contiguous()
    return _OPS.roi_align_backward.default(
        grad, _wide(rois), _NO_ARGMAX, batch, channels, map_height, map_width, height, width,
        spatial_scale, max(sampling_ratio, 0), aligned, _AVERAGE, 1,
    ).contiguous()  # fmt: skip


def _nms(keys, boxes, scores, iou_threshold):
    if not (_active and boxes.dtype == scores.dtype == torch.float32):
        return _theirs["nms"].call_boxed(keys, boxes, scores, iou_threshold)
    return _OPS.nms.default(boxes, scores, iou_threshold)


_KERNELS = {"roi_align": _roi_align, "_roi_align_backward": _roi_align_backward, "nms": _nms}


def _is_ours(maps: Tensor, rois: Tensor, height: int, width: int) -> bool:
    """False after undo(), and for arguments that torchvision's kernel rejects with its error."""
    same_type = maps.dtype == rois.dtype and maps.dtype in FEATURE_DTYPES
    return bool(_active) and same_type and height > 0 and width > 0


def _wide(rois: Tensor) -> Tensor:
    """torchvision passes boxes of the features' type. Those of half precision are widened."""
    return rois if rois.dtype in ROI_DTYPES else rois.float()
