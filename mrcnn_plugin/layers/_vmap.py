"""The rules of torch.vmap for the RoIAlign ops: the mapped dimension is folded into the images.

    B samples of features (N, C, H, W) and rois (R, 5) -> features (B * N, C, H, W), rois (B * R, 5)

Image i of sample b becomes image b * N + i, so one call of the op computes all samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _library  # noqa: F401  loads the ops

OPS = torch.ops.mrcnn_plugin


def _folded(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """Move or add the mapped dimension to the front and join it with the next: (B * n, ...)."""
    stacked = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return stacked.flatten(0, 1)


def _unfolded(folded: Tensor, size: int) -> Tensor:
    return folded.unflatten(0, (size, folded.shape[0] // size))


def _folded_rois(rois: Tensor, dim: int | None, size: int, images: int) -> Tensor:
    """(B * R, 5) RoIs on B * N images. An index of no image becomes -1, never another sample's."""
    folded = _folded(rois, dim, size)
    index = folded[:, 0]
    sample = torch.arange(size, device=rois.device).repeat_interleave(folded.shape[0] // size)
    index = torch.where((index >= 0) & (index < images), index + sample * images, -1)
    return torch.cat([index[:, None], folded[:, 1:]], 1)


def _folded_inputs(
    size: int, features: list[Tensor], features_dims: list[int | None], rois: Tensor, rois_dim
) -> tuple[list[Tensor], Tensor]:
    """The maps of all samples and the RoIs on them. Maps that all samples share are not copied."""
    if all(dim is None for dim in features_dims):
        return features, _folded(rois, rois_dim, size)
    images = features[0].shape[1 if features_dims[0] == 0 else 0]
    maps = [_folded(maps, dim, size) for maps, dim in zip(features, features_dims)]
    return maps, _folded_rois(rois, rois_dim, size, images)


def _folded_argmax(argmax: Tensor, dim: int | None, size: int) -> Tensor:
    """The argmax of "avg" has no elements and one dimension."""
    one = argmax if dim is None else argmax.select(dim, 0)
    return _folded(argmax, dim, size) if one.dim() == 4 else one


def _unfolded_result(output: Tensor, argmax: Tensor, size: int):
    if argmax.dim() == 4:
        return (_unfolded(output, size), _unfolded(argmax, size)), (0, 0)
    return (_unfolded(output, size), argmax), (0, None)


@torch.library.register_vmap("mrcnn_plugin::roi_align")
def _(info, in_dims, features, rois, *options):
    (maps,), rois = _folded_inputs(info.batch_size, [features], in_dims[0:1], rois, in_dims[1])
    return _unfolded_result(*OPS.roi_align(maps, rois, *options), info.batch_size)


@torch.library.register_vmap("mrcnn_plugin::roi_align_backward")
def _(info, in_dims, grad_output, rois, argmax, images, *options):
    size = info.batch_size
    grad = OPS.roi_align_backward(
        _folded(grad_output, in_dims[0], size),
        _folded_rois(rois, in_dims[1], size, images),
        _folded_argmax(argmax, in_dims[2], size),
        size * images,
        *options,
    )
    return _unfolded(grad, size), 0


@torch.library.register_vmap("mrcnn_plugin::roi_align_levels")
def _(info, in_dims, features, rois, levels, *options):
    maps, rois = _folded_inputs(info.batch_size, features, in_dims[0], rois, in_dims[1])
    levels = _folded(levels, in_dims[2], info.batch_size)
    return _unfolded_result(*OPS.roi_align_levels(maps, rois, levels, *options), info.batch_size)


@torch.library.register_vmap("mrcnn_plugin::roi_align_levels_backward")
def _(info, in_dims, grad_output, rois, levels, level, argmax, images, *options):
    size = info.batch_size
    grad = OPS.roi_align_levels_backward(
        _folded(grad_output, in_dims[0], size),
        _folded_rois(rois, in_dims[1], size, images),
        _folded(levels, in_dims[2], size),
        level,
        _folded_argmax(argmax, in_dims[4], size),
        size * images,
        *options,
    )
    return _unfolded(grad, size), 0
