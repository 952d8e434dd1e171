"""Predicts large images in overlapping tiles and joins the objects that tiles cut.

supervision 0.31's InferenceSlicer compares whole masks instead of the area that both tiles see: a
disc of 600 pixels in tiles of 256 stays in 7 pieces at its default threshold. It also needs av and
scipy.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pycocotools.mask as mask_utils
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..data.crops import crop_mask
from ..data.grid import Tile, cut_tiles
from .masks import RLEMasks, shift_mask

# Two masks are one object if, in the area that both tiles see, their IoU is at least the first
# number; or if the smaller one lies to the second in the larger one and has at least the third of
# its pixels there: a fragment, and not an object that touches the other one.
_SAME_IOU, _FRAGMENT_INSIDE, _FRAGMENT_SHARED = 0.5, 0.8, 0.2


def predict_tiles(
    predict: Callable[[list[np.ndarray]], Sequence[Instances]],
    image: np.ndarray,
    size: int,
    overlap: int,
    batch_size: int = 1,
) -> Instances:
    """The instances of an image that is predicted in tiles.

    Detections of neighbouring tiles are one object if they have the same class and their masks
    agree in the area that both tiles cover. Its mask is their union, its box surrounds theirs, and
    its score is the best. No array of the image's size is created.

    Args:
        predict: returns `Instances` with `RLEMasks` per image, in pixels of that image.
        image: (height, width, 3).
        size, overlap: of tiles in pixels; see `cut_tiles`.
        batch_size: tiles per call of `predict`.

    Returns:
        `Instances` in pixels of the image, best score first.
    """
    image_size = image.shape[:2]
    whole = Tile(0, 0, image_size[1], image_size[0])
    tiles = cut_tiles(*image_size, size, overlap)
    found: list[Instances] = []
    for start in range(0, len(tiles), batch_size):
        batch = tiles[start : start + batch_size]
        found += predict([image[tile.slices(whole)] for tile in batch])
    first = np.cumsum([0] + [len(instances) for instances in found])
    groups = np.arange(first[-1])  # of each detection, the first detection of its object
    for i, one in enumerate(tiles):
        for j in range(i + 1, len(tiles)):
            shared = one.shared(tiles[j])
            if not shared.is_empty:
                for a, b in _pairs(found[i], found[j], one, tiles[j], shared):
                    joined = groups[[first[i] + a, first[j] + b]]
                    groups[np.isin(groups, joined)] = joined.min()
    return _merged(found, tiles, torch.from_numpy(groups), image_size)


def _pairs(
    left: Instances, right: Instances, left_tile: Tile, right_tile: Tile, shared: Tile
) -> list[tuple[int, int]]:
    """Indices of detections of two tiles that are the same object."""
    left_index, left_part = _parts(left, left_tile, shared)
    right_index, right_part = _parts(right, right_tile, shared)
    if not left_part or not right_part:
        return []
    iou = mask_utils.iou(left_part, right_part, [False] * len(right_part))
    areas = mask_utils.area(left_part)[:, None], mask_utils.area(right_part)[None]
    inside = iou * (areas[0] + areas[1]) / (1 + iou) / np.minimum(*areas)
    whole = left.pred_masks.areas()[left_index][:, None], right.pred_masks.areas()[right_index]
    share = np.where(areas[0] <= areas[1], areas[0] / whole[0], areas[1] / whole[1])
    same = (iou >= _SAME_IOU) | ((inside >= _FRAGMENT_INSIDE) & (share >= _FRAGMENT_SHARED))
    same &= (
        left.pred_classes.numpy()[left_index][:, None] == right.pred_classes.numpy()[right_index]
    )
    return [(left_index[a], right_index[b]) for a, b in np.argwhere(same)]


def _parts(instances: Instances, tile: Tile, shared: Tile) -> tuple[list[int], list[dict]]:
    """The masks within `shared` as RLE of its size, and the indices of those with a pixel there."""
    size = shared.bottom - shared.top, shared.right - shared.left
    indices, parts = [], []
    for index, rle in enumerate(instances.pred_masks):
        x, y, width, height = mask_utils.toBbox(rle).astype(int).tolist()
        box = Tile(tile.left + x, tile.top + y, tile.left + x + width, tile.top + y + height)
        seen = box.shared(shared)
        if seen.is_empty:
            continue
        _, _, crop = crop_mask(rle)
        part = np.zeros(size, np.uint8, order="F")
        part[seen.slices(shared)] = crop[seen.slices(box)]
        if part.any():
            indices.append(index)
            parts.append(mask_utils.encode(part))
    return indices, parts


def _merged(
    found: list[Instances], tiles: list[Tile], groups: Tensor, image_size: tuple[int, int]
) -> Instances:
    """One instance per group of detections."""
    boxes, masks = [], []
    for instances, tile in zip(found, tiles):
        corner = torch.tensor([tile.left, tile.top] * 2)
        boxes.append(instances.pred_boxes.tensor + corner)
        masks += [shift_mask(r, tile.left, tile.top, image_size) for r in instances.pred_masks]
    boxes = torch.cat(boxes)
    scores = torch.cat([instances.scores for instances in found])
    classes = torch.cat([instances.pred_classes for instances in found])
    kept = []
    for root in groups.unique().tolist():
        members = torch.nonzero(groups == root)[:, 0]
        low, high = boxes[members, :2].min(0).values, boxes[members, 2:].max(0).values
        rle = mask_utils.merge([masks[member] for member in members])
        kept.append((scores[members].max(), classes[root], torch.cat([low, high]), rle))
    kept.sort(key=lambda one: -one[0])
    result = Instances(image_size)
    result.pred_boxes = Boxes(torch.stack([k[2] for k in kept]) if kept else boxes)
    result.scores = torch.stack([k[0] for k in kept]) if kept else scores
    result.pred_classes = torch.stack([k[1] for k in kept]) if kept else classes
    result.pred_masks = RLEMasks([k[3] for k in kept], image_size)
    return result
