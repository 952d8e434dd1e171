"""`RoIBitMasks` holds what detectron2's indexed `BitMasks` holds, without copying masks."""

import pytest
import torch
from detectron2.structures import BitMasks, Instances

from mrcnn_plugin.modeling import roi_bitmasks
from mrcnn_plugin.modeling.roi_bitmasks import RoIBitMasks

INDEX = torch.tensor([3, 0, 0, 2, 3, 1, 3])
BOXES = torch.tensor([[0.0, 0, 20, 24], [3.2, 1.7, 15.1, 9.9], [5, 5, 5, 5], [-3, -4, 30, 40]])


@pytest.fixture
def masks():
    return BitMasks(torch.rand(4, 24, 20, generator=torch.Generator().manual_seed(0)) > 0.4)


@pytest.mark.parametrize("pixels", [1, 3 * 24 * 20, 2**22])
def test_crops(masks, pixels, monkeypatch):
    monkeypatch.setattr(roi_bitmasks, "_PIXELS_AT_A_TIME", pixels)
    boxes = BOXES[[0, 1, 2, 3, 1, 1, 0]]
    crops = RoIBitMasks(masks, INDEX).crop_and_resize(boxes, 14)
    assert crops.dtype == torch.bool and 0 < crops.sum() < crops.numel()
    assert torch.equal(crops, masks[INDEX].crop_and_resize(boxes, 14))


def test_no_rois(masks):
    none = RoIBitMasks(masks, INDEX[:0])
    assert len(none) == 0 and none.tensor.shape == (0, 24, 20)
    assert none.crop_and_resize(BOXES[:0], 14).shape == (0, 14, 14)


def test_one_box_per_mask(masks):
    with pytest.raises(ValueError, match="There are 4 boxes for 7 masks"):
        RoIBitMasks(masks, INDEX).crop_and_resize(BOXES, 14)


@pytest.mark.parametrize(
    "item", [2, -1, slice(1, 4), torch.tensor([5, 1]), INDEX == 3, INDEX > 9], ids=str
)
def test_indexing_copies_nothing(masks, item):
    chosen = RoIBitMasks(masks, INDEX)[item]
    assert chosen.masks is masks
    assert torch.equal(chosen.tensor, masks[INDEX][item].tensor)


def test_it_is_a_bitmasks_for_detectron2(masks):
    rois, expected = RoIBitMasks(masks, INDEX), masks[INDEX]
    assert isinstance(rois, BitMasks) and len(rois) == 7
    assert rois.image_size == expected.image_size and rois.device == expected.device
    assert torch.equal(rois.to("cpu").tensor, expected.tensor)
    assert torch.equal(rois.nonempty(), expected.nonempty())
    assert torch.equal(rois.get_bounding_boxes().tensor, expected.get_bounding_boxes().tensor)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(rois, expected))
    image = Instances((24, 20), gt_masks=rois)
    both = Instances.cat([image, image[INDEX == 0]]).gt_masks
    assert torch.equal(both.tensor, torch.cat([expected.tensor, expected.tensor[INDEX == 0]]))
