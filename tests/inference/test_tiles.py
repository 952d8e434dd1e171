"""Objects that the borders of tiles cut are one object again; objects that touch stay apart."""

from itertools import pairwise

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from detectron2.structures import Boxes, Instances

from mrcnn_plugin.data.crops import crop_mask
from mrcnn_plugin.data.grid import cut_tiles
from mrcnn_plugin.inference.masks import RLEMasks
from mrcnn_plugin.inference.tiles import predict_tiles


def disc(image, x, y, radius, number):
    """Draw a disc whose pixels have the value `number`; earlier discs stay in front."""
    height, width = image.shape[:2]
    rows, columns = np.ogrid[:height, :width]
    inside = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    image[inside & (image[:, :, 0] == 0)] = number


def visible_parts(images, classes=lambda number: 0):
    """A predictor that returns the visible part of each object of every image."""
    return [_visible_parts(image[:, :, 0], classes) for image in images]


def _visible_parts(numbers, classes):
    present = [n for n in np.unique(numbers).tolist() if n]
    rles = [mask_utils.encode(np.asfortranarray((numbers == n).astype(np.uint8))) for n in present]
    corners = np.array([mask_utils.toBbox(rle) for rle in rles]).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    instances = Instances(numbers.shape)
    instances.pred_boxes = Boxes(torch.as_tensor(corners, dtype=torch.float32))
    instances.scores = torch.tensor([n / 1000 for n in present])
    instances.pred_classes = torch.tensor([classes(n) for n in present], dtype=torch.int64)
    instances.pred_masks = RLEMasks(rles, numbers.shape)
    return instances


def drawn(instances):
    """The sets of the RLE, box and class of all instances."""
    boxes = instances.pred_boxes.tensor.tolist()
    return {
        (rle["counts"], *box, c)
        for rle, box, c in zip(instances.pred_masks, boxes, instances.pred_classes.tolist())
    }


def assert_whole(image, size, overlap, classes=lambda number: 0):
    found = predict_tiles(lambda images: visible_parts(images, classes), image, size, overlap)
    (expected,) = visible_parts([image], classes)
    assert len(found) == len(expected)
    assert drawn(found) == drawn(expected)
    assert sorted(found.scores.tolist(), reverse=True) == found.scores.tolist()
    return found


@pytest.mark.parametrize(
    "height, width, size, overlap", [(100, 230, 64, 16), (64, 64, 64, 1), (10, 200, 64, 63)]
)
def test_tiles_cover_the_image_and_overlap(height, width, size, overlap):
    covered = np.zeros((height, width), int)
    tiles = cut_tiles(height, width, size, overlap)
    assert len(set(tiles)) == len(tiles)
    for t in tiles:
        assert (t.right - t.left, t.bottom - t.top) == (min(size, width), min(size, height))
        covered[t.top : t.bottom, t.left : t.right] += 1
    assert covered.min() >= 1
    lefts = sorted({t.left for t in tiles})
    assert all(a + size - b >= overlap for a, b in pairwise(lefts))


def test_a_hundred_discs_on_24_megapixels_come_back_whole():
    rng = np.random.default_rng(0)
    image = np.zeros((4000, 6000, 1), np.uint8)
    for number in range(1, 101):
        row, column = divmod(number - 1, 10)
        x, y = 300 + 600 * column + rng.integers(-50, 50), 200 + 400 * row + rng.integers(-50, 50)
        radius = int(rng.integers(20, 140))
        part = image[y - radius : y + radius + 1, x - radius : x + radius + 1]
        disc(part, radius, radius, radius, number)
    found = predict_tiles(visible_parts, image, 1024, 128)
    assert len(found) == 100
    num_pixels = np.bincount(image.ravel())
    for score, rle in zip(found.scores.tolist(), found.pred_masks):
        left, top, crop = crop_mask(rle)
        window = image[top : top + crop.shape[0], left : left + crop.shape[1], 0]
        assert np.array_equal(crop, window == round(score * 1000))
        assert crop.sum() == num_pixels[round(score * 1000)]


def test_objects_larger_than_the_overlap_and_than_a_tile():
    image = np.zeros((700, 900, 1), np.uint8)
    disc(image, 450, 350, 300, 1)
    disc(image, 60, 60, 50, 2)
    assert len(assert_whole(image, 256, 32)) == 2


@pytest.mark.parametrize("seam", range(90, 131, 5))
def test_touching_objects_across_a_seam_stay_two(seam):
    """Tiles of 128 that overlap by 32 share columns 96 to 127; the discs touch around them."""
    image = np.zeros((128, 224, 1), np.uint8)
    disc(image, seam - 30, 60, 30, 1)
    disc(image, seam + 31, 60, 30, 2)
    assert (image[60, seam], image[60, seam + 1]) == (1, 2)
    assert len(assert_whole(image, 128, 32)) == 2


def test_objects_of_different_classes_are_not_joined():
    image = np.zeros((64, 112, 1), np.uint8)
    disc(image, 55, 30, 20, 1)

    def by_tile(images):
        (found,) = visible_parts(images)
        found.pred_classes[:] = int(images[0][30, 0, 0] > 0)  # another class in the right tile
        return [found]

    assert len(predict_tiles(by_tile, image, 64, 16)) == 2


def two_masks(left, right):
    """Masks of the tiles at columns 0 to 63 and 48 to 111 as two predictions of each side."""
    answers = iter([left, right])

    def predict(images):
        numbers = next(answers)
        return [_visible_parts(numbers, lambda number: 0)]

    return predict_tiles(predict, np.zeros((64, 112, 1), np.uint8), 64, 16)


def test_pixels_that_spill_over_to_a_neighbour_do_not_join_it():
    left, right = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    left[10:50, 30:64] = 1  # reaches the end of the left tile
    right[10:50, :16] = 1  # the same object in the right tile, columns 48 to 63
    right[10:50, 16:60] = 2  # its neighbour ...
    right[29:31, 14:16] = 2  # ... and 4 pixels of it that lie on the first
    assert len(two_masks(left, right)) == 2


def test_a_fragment_is_joined():
    left, right = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    left[10:50, 30:64] = 1
    right[10:20, :16] = 1  # the right tile has found a quarter of the part that it sees
    (mask,) = two_masks(left, right).pred_masks.tensor
    assert mask.sum() == 40 * 34


def test_an_image_without_objects_and_one_smaller_than_a_tile():
    empty = predict_tiles(visible_parts, np.zeros((100, 200, 1), np.uint8), 64, 16)
    assert len(empty) == 0 and empty.pred_masks.tensor.shape == (0, 100, 200)
    image = np.zeros((50, 40, 1), np.uint8)
    disc(image, 20, 20, 10, 1)
    assert_whole(image, 64, 16)


@pytest.mark.parametrize("overlap", [0, 64])
def test_an_overlap_that_joins_nothing_is_an_error(overlap):
    with pytest.raises(
        ValueError, match=r"tiles of 64 pixels overlap by \d+; expected from 1 to 63"
    ):
        cut_tiles(100, 100, 64, overlap)
