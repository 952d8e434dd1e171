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
    do not change. On CPUs the convolutions return channels-last feature maps, which is faster. A
    model that scripts or traces still does, to the same graph as before. Hooks that are registered
    on a FrozenBN module itself are not called.

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


class _FoldingConv2d(Conv2d):
    """detectron2's `Conv2d`, which multiplies its weight by the scale of a FrozenBN after it.

    The fold is kept while it needs no gradient and none of the tensors that it was computed from
    has changed.
    """

    # (copies of the sources that share their memory, their versions, the fold's dtype, the fold)
    _kept = None  # without an annotation, which TorchScript would read

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
            weight, bias = self._folded(_compute_dtype(self.weight))
            x = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
            x = x if self.activation is None else self.activation(x)
        return x

    @torch.jit.unused
    def _folded(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        norm = self.norm
        sources = [self.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var]
        sources += [] if self.bias is None else [self.bias]
        needs_graph = torch.is_grad_enabled() and any(t.requires_grad for t in sources)
        if needs_graph or torch.compiler.is_compiling() or any(t.is_inference() for t in sources):
            return self._fold(dtype)
        versions = [t._version for t in sources]
        if self._kept is not None:
            copies, kept_versions, kept_dtype, fold = self._kept
            same = kept_versions == versions and kept_dtype == dtype and len(copies) == len(sources)
            if same and all(map(_share_memory, copies, sources)):
                return fold
        with torch.inference_mode(False), torch.no_grad():  # a training step may use it, too
            fold = self._fold(dtype)
            # The copies keep the memory of the sources from being used for other tensors.
            self._kept = ([t.detach() for t in sources], versions, dtype, fold)
        return fold

    def _fold(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        norm = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        weight = (self.weight * scale.reshape(-1, 1, 1, 1)).to(dtype)
        if weight.device.type == "cpu":  # the output has the layout of the weight
            weight = weight.contiguous(memory_format=torch.channels_last)
        return weight, shift.to(dtype)

    def train(self, mode: bool = True):
        """As in `nn.Module`. In training, the fold of a trainable weight is not kept."""
        if mode and self.weight.requires_grad:
            self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict:
        """Without the fold, for copies and pickles."""
        return {name: value for name, value in super().__getstate__().items() if name != "_kept"}


def _share_memory(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.device == b.device and a.dtype == b.dtype


def _compute_dtype(weight: Tensor) -> torch.dtype:
    """The dtype in which a convolution with this weight runs."""
    device = weight.device.type
    if torch.is_autocast_enabled(device) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return weight.dtype
