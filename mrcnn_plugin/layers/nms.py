"""Non-maximum suppression that stops once it has kept as many boxes as are wanted.

The kernels are native: `csrc/cpu/nms.cpp`, `csrc/cuda/nms.cu`. On CUDA, torch sorts the scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _library  # noqa: F401  loads the ops

__all__ = ["batched_nms", "nms"]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, max_kept: int = -1) -> Tensor:
    """Drop every box that overlaps a kept box of a higher score.

    The result is that of `torchvision.ops.nms`, cut to the first `max_kept` indices: also for equal
    scores (the lower index first), for reversed and NaN boxes and for NaN scores (which come
    first). It does not depend on the device or the number of threads.

    Args:
        boxes: (N, 4) float32, float16 or bfloat16, x1, y1, x2, y2 in any unit. Half types are
            converted to float32, in which overlaps are computed.
        scores: (N) of one of these dtypes.
        iou_threshold: a box is dropped if its intersection over union with a kept box is above it.
        max_kept: stop after this many boxes; -1 keeps all.

    Returns:
        (K,) int64, the indices of the kept boxes by descending score. It has no gradient.

    Raises:
        TypeError: boxes or scores have another dtype.
        ValueError: max_kept is less than -1, or a shape or device is wrong.
        RuntimeError: more than 384,000 boxes on CUDA.
    """
    _check(boxes, scores, max_kept)
    return torch.ops.mrcnn_plugin.nms(
        boxes.detach().float(), scores.detach().float(), iou_threshold, max_kept
    )


def batched_nms(
    boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, max_kept: int = -1
) -> Tensor:
    """`nms` within each group of boxes (a pyramid level or a class).

    The result is the list that `detectron2.layers.batched_nms` returns, cut to `max_kept`. Like
    torchvision's, which detectron2 calls, it moves the boxes of each group away from the others by
    an offset if there are at most 1000 boxes (25000 on CUDA), and computes one group after the
    other if there are more: the offset rounds coordinates, so the two differ by a few boxes. Under
    torch.compile, torch.export and torch.jit.trace it always uses the offset, as torchvision does
    in a trace.

    Args:
        boxes, scores, iou_threshold, max_kept: as in `nms`.
        idxs: (N) int64, the group of each box.

    Returns, Raises:
        as in `nms`.
    """
    _check(boxes, scores, max_kept)
    if idxs.shape != scores.shape:
        raise ValueError(f"idxs must be (N), got {idxs.shape} for scores {scores.shape}")
    boxes, scores = boxes.detach().float(), scores.detach()
    if _is_recorded():
        return _nms_of_offset_boxes(boxes, scores, idxs, iou_threshold, max_kept)
    if boxes.numel() > (100_000 if boxes.is_cuda else 4000):  # torchvision's numbers
        return _nms_of_each_group(boxes, scores, idxs, iou_threshold, max_kept)
    if boxes.numel() == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    return _nms_of_offset_boxes(boxes, scores, idxs, iou_threshold, max_kept)


def _check(boxes: Tensor, scores: Tensor, max_kept: int) -> None:
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be (N, 4), got shape {boxes.shape}")
    if scores.dim() != 1 or (not _is_recorded() and scores.shape[0] != boxes.shape[0]):
        raise ValueError(f"scores must be (N) for boxes {boxes.shape}, got shape {scores.shape}")
    if boxes.device != scores.device:
        raise ValueError(
            f"boxes are on {boxes.device} but scores on {scores.device}: move them to one device"
        )
    for tensor in (boxes, scores):
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise TypeError(
                "boxes and scores must be float32, float16 or bfloat16, got "
                f"{boxes.dtype} and {scores.dtype}: convert them with .float()"
            )
    if max_kept < -1:
        raise ValueError(f"max_kept must be -1 (all) or at least 0, got {max_kept}")


def _is_recorded() -> bool:
    """True while a trace or a graph is made, where sizes are not known."""
    if torch.jit.is_scripting():
        return False
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def _nms_of_offset_boxes(
    boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, max_kept: int
) -> Tensor:
    offsets = idxs.to(boxes) * (boxes.max() + 1)
    boxes = boxes + offsets[:, None]
    return torch.ops.mrcnn_plugin.nms(boxes, scores.float(), iou_threshold, max_kept)


def _nms_of_each_group(
    boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, max_kept: int
) -> Tensor:
    """Each group contributes at most max_kept boxes, and one more to detect equal scores there."""
    stop = max_kept if max_kept < 0 else max_kept + 1
    keep = _kept_of_groups(boxes, scores, idxs, iou_threshold, stop)
    ordered = scores[keep].sort(descending=True)
    if max_kept < 0:
        return keep[ordered[1]]
    first = ordered[0][:stop]
    if not bool((first[1:] < first[:-1]).all()):
        # torch.sort is not stable: the order of equal (or NaN) scores depends on the whole list.
        keep = _kept_of_groups(boxes, scores, idxs, iou_threshold, -1)
        ordered = scores[keep].sort(descending=True)
    return keep[ordered[1][:max_kept]]


def _kept_of_groups(
    boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, max_kept: int
) -> Tensor:
    """Indices of the kept boxes of all groups, ascending."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for group in torch.unique(idxs):
        members = torch.where(idxs == group)[0]
        kept = torch.ops.mrcnn_plugin.nms(
            boxes[members], scores[members].float(), iou_threshold, max_kept
        )
        mask[members[kept]] = True
    return torch.where(mask)[0]


# ---- Registration with PyTorch -------------------------------------------------------------------


@torch.library.register_fake("mrcnn_plugin::nms")
def _(boxes, scores, iou_threshold, max_kept=-1):
    size = torch.library.get_ctx().new_dynamic_size(min=0)
    torch._check(size <= boxes.shape[0])
    if max_kept >= 0:
        torch._check(size <= max_kept)
    return boxes.new_empty((size,), dtype=torch.int64)


@torch.library.register_kernel("mrcnn_plugin::nms", "cuda")
def _(boxes, scores, iou_threshold, max_kept=-1):
    order = scores.sort(descending=True, stable=True)[1]
    kept, count = torch.ops.mrcnn_plugin.nms_sorted(boxes[order], iou_threshold, max_kept)
    return order[kept[: int(count)]]
