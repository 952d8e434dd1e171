"""A model as a program of `torch.export`, for images of any height and width."""

import copy

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .graph import InferenceGraph


def export_program(
    graph: InferenceGraph, *, channels_last: bool = True
) -> torch.export.ExportedProgram:
    """Record `graph` for uint8 images (3, H, W) of any size; see `InferenceGraph.forward`.

    Every number of proposals and detections, zero included, is a size of the program. The model is
    not changed.

    Args:
        graph: in evaluation mode.
        channels_last: whether convolutions return channels-last maps where the model's do. With
            this, the results are bit-identical to the model's, but inductor must not compile it.
    """
    size = torch.export.Dim.DYNAMIC
    image = torch.zeros((3, 160, 224), dtype=torch.uint8, device=graph.model.device)
    shapes = ({1: size, 2: size},)
    graph = graph if channels_last else _with_contiguous_weights(graph)
    with torch.no_grad(), _ForUnknownSizes(channels_last):
        return torch.export.export(graph, (image,), dynamic_shapes=shapes, strict=False)


def _with_contiguous_weights(graph: InferenceGraph) -> InferenceGraph:
    """A copy; `Predictor` stores the weights of convolutions channels-last.

    `contiguous()` would leave 1x1 weights as they are, whose strides are valid for both layouts.
    """
    graph = copy.deepcopy(graph)
    for parameter in graph.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    return graph


class _ForUnknownSizes(TorchFunctionMode):
    """Replaces calls that need to know a size by others of the same result.

    docs/deploy.md has a small program for each.
    """

    def __init__(self, channels_last: bool):
        super().__init__()
        self.channels_last = channels_last

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        if func is F.max_pool2d:
            return _max_pool2d(*args, **kwargs)
        if not self.channels_last and kwargs.get("memory_format") is torch.channels_last:
            kwargs["memory_format"] = torch.preserve_format
        return func(*args, **kwargs)


def _batch_norm(x, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """F.batch_norm branches on whether the input is empty; the op that it calls does not."""
    if training:
        raise ValueError("batch norm in training mode cannot be exported: call model.eval() first")
    op = torch.ops.aten._native_batch_norm_legit_no_training
    return op(x, weight, bias, mean, var, momentum, eps)[0]


def _max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, **options) -> Tensor:
    """The shape function of a stride of 2 branches on whether the size is even."""
    stride = kernel_size if stride is None else stride
    x = F.max_pool2d(x, kernel_size, 1, padding, dilation, **options)
    steps = stride if isinstance(stride, tuple) else (stride, stride)
    for dim, step in zip((2, 3), steps):
        x = x.index_select(dim, torch.arange(0, x.shape[dim], step, device=x.device))
    return x
