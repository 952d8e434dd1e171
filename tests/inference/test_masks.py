"""Masks as RLE, compared with detectron2's paste into image-sized arrays."""

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer

from mrcnn_plugin.inference import masks as masks_module
from mrcnn_plugin.inference.masks import RLEMasks, encode_masks


def random_objects(count, height, width):
    """Smooth 14x14 probabilities over random boxes, clipped to the image; none is empty."""
    noise = torch.rand(count, 1, 14, 14)
    probabilities = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)[:, 0]
    size = torch.tensor([width, height])
    center, extent = torch.rand(count, 2) * size, torch.rand(count, 2) * size
    boxes = torch.cat([center - extent / 2, center + extent / 2], dim=1)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
    kept = (boxes[:, 2:] - boxes[:, :2]).min(dim=1).values > 0
    return probabilities[kept], boxes[kept]


def detectron2_rles(probabilities, boxes, size):
    pasted = paste_masks_in_image(probabilities, boxes, size)
    return [mask_utils.encode(np.asfortranarray(m.numpy().astype(np.uint8))) for m in pasted]


@pytest.mark.parametrize("size", [(60, 80), (37, 41), (301, 200), (1, 50), (50, 1)])
def test_rles_are_those_of_detectron2(size):
    probabilities, boxes = random_objects(200, *size)
    ours = encode_masks(probabilities, boxes, size)
    expected = detectron2_rles(probabilities, boxes, size)
    near = (paste_masks_in_image(probabilities, boxes, size, -1).int() - 127).abs() <= 1
    for index, (rle, reference) in enumerate(zip(ours, expected)):
        if rle["counts"] != reference["counts"]:  # pixels at the threshold, within rounding
            differs = mask_utils.decode(rle) != mask_utils.decode(reference)
            assert near[index].numpy()[differs].all()
    assert sum(a["counts"] != b["counts"] for a, b in zip(ours, expected)) <= 1


@pytest.mark.parametrize("most_pixels", [1, 37, 1 << 22])
def test_parts_of_large_boxes_join(most_pixels, monkeypatch):
    monkeypatch.setattr(masks_module, "_MOST_PIXELS", most_pixels)
    probabilities, boxes = random_objects(20, 40, 50)
    boxes[0] = torch.tensor([0.0, 0, 50, 40])
    expected = detectron2_rles(probabilities, boxes, (40, 50))
    ours = encode_masks(probabilities, boxes, (40, 50))
    assert [r["counts"] for r in ours] == [r["counts"] for r in expected]


def test_full_empty_and_single_pixel_masks_by_hand():
    """In a 2x3 image: everything; nothing; the pixel of row 1, column 2, the last in RLE order."""
    probabilities = torch.stack([torch.ones(14, 14), torch.zeros(14, 14), torch.ones(14, 14)])
    boxes = torch.tensor([[-3.0, -3, 6, 5], [0, 0, 3, 2], [2, 1, 3, 2]])
    masks = encode_masks(probabilities, boxes, (2, 3))
    assert masks.areas().tolist() == [6, 0, 1]
    assert masks.tensor[0].all() and not masks.tensor[1].any()
    assert masks.tensor[2].int().tolist() == [[0, 0, 0], [0, 0, 1]]


def test_no_objects():
    masks = encode_masks(torch.zeros(0, 14, 14), torch.zeros(0, 4), (5, 7))
    assert len(masks) == 0 and masks.tensor.shape == (0, 5, 7)


def test_rle_masks_are_a_field_of_instances():
    probabilities, boxes = random_objects(6, 30, 40)
    instances = Instances((30, 40))
    instances.pred_boxes = Boxes(boxes)
    instances.scores = torch.linspace(1, 0, len(boxes))
    instances.pred_classes = torch.zeros(len(boxes), dtype=torch.int64)
    instances.pred_masks = encode_masks(probabilities, boxes, (30, 40))
    dense = instances.pred_masks.tensor
    for item in (instances.scores > 0.3, torch.tensor([2, 0]), slice(1, 3)):
        assert torch.equal(instances[item].pred_masks.tensor, dense[item])
    assert torch.equal(instances[1].pred_masks.tensor, dense[1:2])
    both = Instances.cat([instances[:2], instances[2:]])
    assert torch.equal(both.pred_masks.tensor, dense)
    assert isinstance(instances.to("cpu").pred_masks, RLEMasks)
    drawn = Visualizer(np.zeros((30, 40, 3), np.uint8)).draw_instance_predictions(instances)
    assert drawn.get_image().any()
