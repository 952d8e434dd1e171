"""Give a built model this plugin's RoIAlign, in place: any detectron2 or torchvision R-CNN."""

import logging
from dataclasses import dataclass, field

import detectron2.layers
import torch
import torchvision.ops
from torch import Tensor, nn
from torchvision.ops.poolers import LevelMapper

from ..layers.roi_align import RoIAlign, roi_align

logger = logging.getLogger(__name__)

# RoI poolers of other kinds: left as they are, and named.
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
        replaced: names of the modules that are this plugin's now.
        left_alone: name -> class of RoI poolers that are not RoIAlign (rotated, RoIPool, ...).
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

    Replaced are `detectron2.layers.ROIAlign` (so also each level of its `ROIPooler`),
    `torchvision.ops.RoIAlign` and `torchvision.ops.MultiScaleRoIAlign`. They have no parameters, so
    the state dict stays what it was; outputs and gradients are equal to rounding. Boxes are no
    longer rounded to half precision under AMP.

    Args:
        model: a built model, on any device, in training or not.

    Returns:
        what was replaced and what was not; its `undo()` takes it back.

    Raises:
        ValueError: the model itself is a pooler, which cannot be replaced in place.
    """
    if _ours(model) is not None:
        raise ValueError(
            f"the model is itself a {type(model).__name__}: use mrcnn_plugin.RoIAlign in its place"
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
        f"{len(result.replaced)} RoIAlign modules replaced; left alone: {result.left_alone or 0}"
    )
    return result


def _ours(module: nn.Module) -> nn.Module | None:
    """Our module for one of theirs; None for anything else. Exact types: subclasses may differ."""
    if type(module) in (detectron2.layers.ROIAlign, torchvision.ops.RoIAlign):
        return _DropInRoIAlign(
            module.output_size,
            module.spatial_scale,
            max(module.sampling_ratio, 0),  # theirs: adaptive when not positive
            aligned=module.aligned,
        ).train(module.training)
    if type(module) is torchvision.ops.MultiScaleRoIAlign:
        return _DropInMultiScaleRoIAlign(
            module.featmap_names,
            module.output_size,
            module.sampling_ratio,
            canonical_scale=module.canonical_scale,
            canonical_level=module.canonical_level,
        ).train(module.training)
    return None


class _DropInRoIAlign(RoIAlign):
    """Takes boxes as detectron2 and torchvision do: with a graph, or of any dtype."""

    def forward(self, features: Tensor, rois: Tensor | list[Tensor]) -> Tensor:
        if isinstance(rois, Tensor):
            return super().forward(features, _plain(rois))
        return super().forward(features, [_plain(boxes) for boxes in rois])


class _DropInMultiScaleRoIAlign(torchvision.ops.MultiScaleRoIAlign):
    """torchvision's pooler for feature pyramids (FPN, eq. 1), level by level with our op."""

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        features = [feature for name, feature in x.items() if name in self.featmap_names]
        largest = max(height for height, _ in image_shapes)
        # Strides are powers of two: feature sizes that were rounded up still say which.
        log_scales = [round(torch.tensor(f.shape[-2] / largest).log2().item()) for f in features]
        levels = LevelMapper(
            -log_scales[0], -log_scales[-1], self.canonical_scale, self.canonical_level
        )(boxes)
        indexed = [torch.cat([torch.full_like(b[:, :1], i), b], 1) for i, b in enumerate(boxes)]
        rois = _plain(torch.cat(indexed))

        shape = (len(rois), features[0].shape[1], *self.output_size)
        pooled = features[0].new_zeros(shape)
        for level, (feature, log_scale) in enumerate(zip(features, log_scales)):
            (index,) = torch.where(levels == level)
            pooled_level = roi_align(
                feature,
                rois[index],
                self.output_size,
                2.0**log_scale,
                max(self.sampling_ratio, 0),
                aligned=False,
            )
            pooled = pooled.index_put((index,), pooled_level.to(pooled.dtype))
        return pooled


def _plain(boxes: Tensor) -> Tensor:
    """Without a graph (RoIAlign has no gradient to boxes) and at least float32."""
    boxes = boxes.detach()
    return boxes if boxes.dtype == torch.float64 else boxes.float()
