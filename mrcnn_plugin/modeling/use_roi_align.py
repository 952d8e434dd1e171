"""Replaces RoIAlign in a built detectron2 or torchvision model by this plugin's, in place."""

import logging
import math
from dataclasses import dataclass, field

import detectron2.layers
import torch
import torch.fx
import torchvision.ops
from detectron2.modeling.poolers import ROIPooler, convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from torch import Tensor, nn

from ..layers import roi_align
from ..layers._arguments import with_batch_index
from ..layers.multiscale_roi_align import MultiScaleRoIAlign
from ..layers.roi_align import RoIAlign

logger = logging.getLogger(__name__)

# RoI poolers of other kinds are not replaced, only reported.
_OTHER_POOLERS = (
    torchvision.ops.RoIPool,
    torchvision.ops.PSRoIAlign,
    torchvision.ops.PSRoIPool,
    detectron2.layers.ROIAlignRotated,
)


@dataclass
class RoIAlignReplacement:
    """What `use_roi_align` did to a model.

    Attributes:
        replaced: names of the modules that were replaced.
        left_alone: name -> class of the RoI poolers that are not RoIAlign (rotated, RoIPool, ...).
    """

    replaced: list[str] = field(default_factory=list)
    left_alone: dict[str, str] = field(default_factory=dict)
    _originals: list[tuple[nn.Module, str, nn.Module]] = field(default_factory=list, repr=False)

    def undo(self) -> None:
        """Put the original modules back."""
        for parent, name, original in self._originals:
            setattr(parent, name, original)
        self._originals.clear()
        self.replaced.clear()


def use_roi_align(model: nn.Module) -> RoIAlignReplacement:
    """Replace every RoIAlign in `model` by this plugin's, in place.

    This replaces `detectron2.layers.ROIAlign`, a `ROIPooler` of several levels of it (one call for
    all levels), `torchvision.ops.RoIAlign` and `MultiScaleRoIAlign`. They have no parameters, so
    the state dict does not change. Outputs and gradients are equal up to rounding, except that
    boxes are not rounded to half precision under AMP. A model that scripts or traces still does.

    Args:
        model: a built model, on any device, in training or evaluation mode.

    Returns:
        what was replaced and what was not. Its `undo()` restores the original modules.

    Raises:
        ValueError: the model itself is a pooler, which cannot be replaced in place.
    """
    if _ours(model) is not None:
        raise ValueError(
            f"The model is itself a {type(model).__name__}, which cannot be replaced in place. Use "
            "mrcnn_plugin.RoIAlign instead."
        )
    result = RoIAlignReplacement()
    for parent_name, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            path = f"{parent_name}.{name}" if parent_name else name
            ours = _ours(child)
            if ours is not None:
                setattr(parent, name, ours)
                result.replaced.append(path)
                result._originals.append((parent, name, child))
            elif isinstance(child, _OTHER_POOLERS):
                result.left_alone[path] = type(child).__name__
    logger.info(
        f"Replaced {len(result.replaced)} RoIAlign modules. "
        f"RoI poolers of other kinds: {result.left_alone or 'none'}."
    )
    return result


def _ours(module: nn.Module) -> nn.Module | None:
    """Our module for a RoIAlign of theirs, else None. Subclasses may differ, so types are exact."""
    if type(module) in (detectron2.layers.ROIAlign, torchvision.ops.RoIAlign):
        return _DropInRoIAlign(
            module.output_size,
            module.spatial_scale,
            _our_sampling_ratio(module.sampling_ratio),
            aligned=module.aligned,
        ).train(module.training)
    if type(module) is ROIPooler and _is_pyramid(module):
        return _DropInROIPooler(module).train(module.training)
    if type(module) is torchvision.ops.MultiScaleRoIAlign:
        return _DropInMultiScaleRoIAlign(
            module.featmap_names,
            module.output_size,
            _our_sampling_ratio(module.sampling_ratio),
            canonical_scale=module.canonical_scale,
            canonical_level=module.canonical_level,
        ).train(module.training)
    return None


def _is_pyramid(pooler: ROIPooler) -> bool:
    """Whether it pools by RoIAlign from several maps whose scales are exact powers of two."""
    levels = pooler.level_poolers
    if len(levels) < 2 or any(type(p) is not detectron2.layers.ROIAlign for p in levels):
        return False
    return all(p.spatial_scale == 2.0 ** -(pooler.min_level + i) for i, p in enumerate(levels))


def _our_sampling_ratio(sampling_ratio: float) -> int:
    """Theirs is adaptive if it is not positive, and may be a float."""
    return max(int(sampling_ratio), 0)


class _DropInRoIAlign(RoIAlign):
    """`RoIAlign` that accepts boxes with a graph or of any dtype, as detectron2 and torchvision."""

    def forward(self, features: Tensor, rois: Tensor | list[Tensor]) -> Tensor:
        # Not super().forward, which TorchScript cannot compile. torch.fx replaces `pool` in its own
        # module only, so it is not imported by name.
        return roi_align.pool(
            features,
            _plain_rois(rois),
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
            self.mode,
            self.bin_stride,
        )


class _DropInROIPooler(nn.Module):
    """detectron2's `ROIPooler` in one call of our op, without a device synchronization per level.

    TorchScript and traces get `per_level`, their own pooler, with our RoIAlign in each level.
    """

    def __init__(self, pooler: ROIPooler):
        super().__init__()
        first = pooler.level_poolers[0]
        self.per_level = pooler
        self.output_size = pooler.output_size
        self.min_level, self.max_level = pooler.min_level, pooler.max_level
        self.canonical_box_size = pooler.canonical_box_size
        self.canonical_level = pooler.canonical_level
        self.pyramid = MultiScaleRoIAlign(
            pooler.output_size,
            [level.spatial_scale for level in pooler.level_poolers],
            _our_sampling_ratio(first.sampling_ratio),
            aligned=first.aligned,
            canonical_box_size=pooler.canonical_box_size,
            canonical_level=pooler.canonical_level,
        )

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        if torch.jit.is_scripting() or torch.jit.is_tracing() or len(box_lists) == 0:
            output = self.per_level(x, box_lists)
        else:
            output = self._pool(x, box_lists)
        return output

    @torch.jit.unused
    def _pool(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        features = [feature.to(x[0].dtype) for feature in x]  # autocast may mix them
        return self.pyramid(features, _plain(convert_boxes_to_pooler_format(box_lists)))


class _DropInMultiScaleRoIAlign(torchvision.ops.MultiScaleRoIAlign):
    """torchvision's pooler for feature pyramids in one call of our op. It scripts, too."""

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        return _pool_pyramid(
            x,
            boxes,
            image_shapes,
            self.featmap_names,
            self.output_size,
            self.sampling_ratio,
            self.canonical_scale,
            self.canonical_level,
        )


@torch.fx.wrap  # one node of a symbolic trace, as torchvision's functions
def _pool_pyramid(
    x: dict[str, Tensor],
    boxes: list[Tensor],
    image_shapes: list[tuple[int, int]],
    featmap_names: list[str],
    output_size: list[int],
    sampling_ratio: int,
    canonical_scale: int,
    canonical_level: int,
) -> Tensor:
    """torchvision's `MultiScaleRoIAlign.forward`, with its attributes as arguments."""
    features: list[Tensor] = []
    for name, feature in x.items():  # TorchScript supports no `if` in a comprehension
        if name in featmap_names:
            features.append(feature)
    features = [feature.to(features[0].dtype) for feature in features]  # autocast may mix them
    height = max([height for height, _ in image_shapes])
    # Strides are powers of two, so the rounded logarithm is exact whatever the image size.
    # TorchScript has no math.log2, and its round() returns a float.
    exponents = [math.floor(math.log(f.shape[-2] / height) / math.log(2) + 0.5) for f in features]
    rois = with_batch_index([_plain(b) for b in boxes], features[0])
    output, _ = torch.ops.mrcnn_plugin.roi_align_levels(
        features,
        rois,
        _levels(rois, -exponents[0], -exponents[-1], canonical_scale, canonical_level),
        output_size[0],
        output_size[1],
        [2.0**exponent for exponent in exponents],
        sampling_ratio,
        False,  # aligned
        0,  # mode "avg"
        1,  # bin_stride
    )
    return output


def _levels(
    rois: Tensor, first: int, last: int, canonical_scale: int, canonical_level: int
) -> Tensor:
    """torchvision's level of each (R, 5) RoI, minus the first (FPN, eq. 1): (R,) int64."""
    size = torch.sqrt((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2]))
    level = torch.floor(canonical_level + torch.log2(size / canonical_scale) + 1e-6)
    level = torch.nan_to_num(level, nan=float(first))
    return torch.clamp(level, min=first, max=last).to(torch.int64) - first


@torch.fx.wrap
def _plain_rois(rois: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    """`_plain` of RoIs (R, 5) or of the boxes of each image."""
    if isinstance(rois, Tensor):
        return _plain(rois)
    return [_plain(boxes) for boxes in rois]


def _plain(boxes: Tensor) -> Tensor:
    """Boxes without a graph (RoIAlign has no gradient to them), at least float32."""
    boxes = boxes.detach()
    return boxes if boxes.dtype == torch.float64 else boxes.float()
