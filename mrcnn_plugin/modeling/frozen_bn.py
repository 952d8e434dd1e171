"""Folds FrozenBN into the convolution before it, at forward time.

FrozenBN is the affine map `scale * y + shift` of each channel, so `FrozenBN(conv(x, w))` equals
`conv(x, scale * w) + shift`. The product of weights is small next to a pass over the feature map.
Parameters, buffers and their names stay detectron2's.
"""

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn
from torch.nn import functional as F


def fold_frozen_bn(model: nn.Module) -> int:
    """Fold every FrozenBN of `model` into its convolution at forward time, in place.

    This applies to `detectron2.layers.Conv2d` with a norm, also one that is frozen later. Outputs
    and gradients are equal up to rounding. Parameters, the state dict, optimizers and checkpoints
    do not change. On CPUs, and in half precision also on GPUs, the convolutions return
    channels-last feature maps, which is faster. A model that scripts or traces still does, to the
    same graph as before. Hooks that are registered on a FrozenBN module itself are not called.

    `mrcnn_plugin`'s backbone and res5 are built like this. For other models of detectron2:

        model = build_model(cfg)
        fold_frozen_bn(model)

    Args:
        model: a built model, on any device, in training or evaluation mode.

    Returns:
        the number of convolutions with a norm that were changed; 0 if all of them were before.
    """
    convs = [m for m in model.modules() if type(m) is Conv2d and m.norm is not None]
    for conv in convs:
        conv.__class__ = _FoldingConv2d  # keeps the module's identity, parameters and hooks
    return len(convs)


def fuse_frozen_bn(model: nn.Module) -> int:
    """Replace each FrozenBN after a convolution by its fold for good, in place, for inference.

    The convolutions get the weights and the bias that `fold_frozen_bn` computes at every call, in
    the dtype in which they run: half precision in a `torch.autocast` block. That saves some small
    kernels per convolution, which take longer than the product on a GPU. The state dict changes.

    Args:
        model: a built model, which is not trained any more.

    Returns:
        the number of convolutions that were changed.
    """
    fold_frozen_bn(model)
    convs = [
        m
        for m in model.modules()
        if type(m) is _FoldingConv2d and type(m.norm) is FrozenBatchNorm2d
    ]
    with torch.no_grad():
        for conv in convs:
            weight, bias = conv._fold(_compute_dtype(conv.weight))
            conv.weight = nn.Parameter(weight, requires_grad=False)
            conv.bias = nn.Parameter(bias, requires_grad=False)
            conv.norm = conv._memory = None
    return len(convs)


class _FoldingConv2d(Conv2d):
    """detectron2's `Conv2d`, which multiplies its weight by the scale of a FrozenBN after it.

    The fold is computed at every call, so it follows every change of the weights. Without
    gradients its memory is used again, because new memory costs more than the product.
    """

    _memory = None  # of the last fold; without an annotation, which TorchScript would read

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():  # TorchScript does not support super()
            x = F.conv2d(
                x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
            )
            if self.norm is not None:
                x = self.norm(x)
            if self.activation is not None:
                x = self.activation(x)
        elif torch.jit.is_tracing() or type(self.norm) is not FrozenBatchNorm2d:
            x = super().forward(x)
        else:
            weight, bias = self._fold(_compute_dtype(self.weight))
            x = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
            x = x if self.activation is None else self.activation(x)
        return x

    @torch.jit.unused
    def _fold(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The weight and the bias of the convolution with the norm, computed before rounding."""
        norm = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        scale = scale.reshape(-1, 1, 1, 1)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            weight = (self.weight * scale).to(dtype, memory_format=_layout(self.weight, dtype))
        else:
            weight = torch.mul(self.weight, scale, out=self._memory_for(dtype))
        return weight, shift.to(dtype)

    def _memory_for(self, dtype: torch.dtype) -> Tensor:
        like, memory = self.weight, self._memory
        if memory is None or (memory.dtype, memory.device) != (dtype, like.device):
            with torch.inference_mode(False):  # so that it can be used outside of it as well
                memory = torch.empty_like(like, dtype=dtype, memory_format=_layout(like, dtype))
            self._memory = memory
        return memory

    def train(self, mode: bool = True):
        """As in `nn.Module`. Training frees the memory of the fold."""
        if mode:
            self._memory = None
        return super().train(mode)

    def __getstate__(self) -> dict:
        """Without the fold, for copies and pickles."""
        return {name: value for name, value in super().__getstate__().items() if name != "_memory"}


def _layout(weight: Tensor, dtype: torch.dtype) -> torch.memory_format:
    """The layout of the fold, which the output of the convolution has as well: the faster one."""
    faster = weight.device.type == "cpu" or dtype in (torch.float16, torch.bfloat16)
    return torch.channels_last if faster else torch.preserve_format


def _compute_dtype(weight: Tensor) -> torch.dtype:
    """The dtype in which a convolution with this weight runs."""
    device = weight.device.type
    if torch.is_autocast_enabled(device) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return weight.dtype
