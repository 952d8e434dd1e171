"""Predictions as polygons, labelme and COCO json are the same masks when they are read back."""

import json

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from mrcnn_plugin.data.convert.labelme import from_labelme
from mrcnn_plugin.data.crops import crop_mask
from mrcnn_plugin.inference.formats import to_coco, to_labelme, to_numbers, to_polygons
from mrcnn_plugin.inference.masks import RLEMasks, shift_mask
from mrcnn_plugin.inference.polygons import outlines, trace

DONUT = np.pad(np.pad(np.zeros((3, 3), bool), 2, constant_values=True), 1)


def encode(mask):
    return mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))


def random_masks(count):
    """Noise of every density, with saddles and holes, and smooth blobs in several parts."""
    rng = np.random.default_rng(0)
    for index in range(count):
        if index % 4:
            yield rng.random(rng.integers(1, 40, 2)) < rng.random()
        else:
            smooth = cv2.GaussianBlur(
                rng.random(rng.integers(40, 120, 2)), (0, 0), rng.uniform(1, 9)
            )
            yield smooth > np.quantile(smooth, rng.random())


def instances_of(masks, classes=None):
    rles = [encode(mask) for mask in masks]
    boxes = np.array([mask_utils.toBbox(rle) for rle in rles]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances = Instances(masks[0].shape)
    instances.pred_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32))
    instances.scores = torch.linspace(0.9, 0.5, len(masks))
    instances.pred_classes = torch.tensor(classes or [0] * len(masks))
    instances.pred_masks = RLEMasks(rles, masks[0].shape)
    return instances


def test_crops_and_shifts_of_random_masks():
    for mask in random_masks(400):
        left, top, crop = crop_mask(encode(mask))
        pasted = np.zeros_like(mask)
        pasted[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        assert np.array_equal(pasted, mask)
        assert not mask.any() or (crop.any(0)[[0, -1]].all() and crop.any(1)[[0, -1]].all())
        shifted = np.zeros((mask.shape[0] + 11, mask.shape[1] + 13), bool)
        shifted[3 : 3 + mask.shape[0], 7 : 7 + mask.shape[1]] = mask
        assert shift_mask(encode(mask), 7, 3, shifted.shape)["counts"] == encode(shifted)["counts"]


def test_polygons_of_random_masks_are_exact():
    num_holes = 0
    for mask in random_masks(400):
        polygons = [ring.astype(float).ravel().tolist() for ring in outlines(mask)]
        if not mask.any():
            assert polygons == []
            continue
        back = mask_utils.merge(mask_utils.frPyObjects(polygons, *mask.shape))
        assert back["counts"] == encode(mask)["counts"]
        num_holes += len(trace(mask)[1])
    assert num_holes > 100


def test_outlines_by_hand():
    """An L of three pixels; a diagonal pair, which is two; a ring, which is cut at its hole."""
    (ring,) = outlines(np.array([[1, 0], [1, 1]], bool))
    assert ring.tolist() == [[0, 0], [1, 0], [1, 1], [2, 1], [2, 2], [0, 2]]
    assert len(outlines(np.array([[1, 0], [0, 1]], bool))) == 2
    rings, holes = trace(DONUT)
    assert rings[0].tolist() == [[1, 1], [8, 1], [8, 8], [1, 8]]
    assert holes[0].tolist() == [[3, 3], [6, 3], [6, 6], [3, 6]]
    assert [len(ring) for ring in outlines(DONUT)] == [4, 8]


def test_polygons_of_instances_and_their_tolerance():
    circle = cv2.circle(np.zeros((60, 80), np.uint8), (40, 30), 20, 1, -1).astype(bool)
    instances = instances_of([circle, np.zeros_like(circle)])
    exact, none = to_polygons(instances)
    assert none == [] and (min(exact[0][0::2]), max(exact[0][0::2])) == (20.0, 61.0)
    ((fewer,), _) = to_polygons(instances, tolerance=1.5)
    assert len(fewer) < len(exact[0]) / 3
    back = mask_utils.frPyObjects([fewer], 60, 80)
    assert mask_utils.iou(back, [encode(circle)], [False])[0, 0] > 0.9


def test_coco_annotations():
    masks = [DONUT, np.roll(DONUT, 1)]
    one, two = to_coco(instances_of(masks, classes=[2, 0]), 7, first_id=40)
    assert (one["id"], two["id"], one["image_id"], one["iscrowd"]) == (40, 41, 7, 0)
    assert (one["category_id"], two["category_id"]) == (3, 1)
    assert one["bbox"] == [1.0, 1.0, 7.0, 7.0] and one["area"] == 40
    assert (one["score"], two["score"]) == (0.9, 0.5)
    assert isinstance(one["segmentation"]["counts"], str) and json.dumps(one)
    assert np.array_equal(mask_utils.decode(one["segmentation"]), masks[0])


def test_labelme_reads_back_the_same_masks(tmp_path):
    """Through the converter: one part, several parts, holes, single pixels."""
    names = ["apple", "cup"]
    masks = [mask for mask in random_masks(60) if mask.any()]
    for index, mask in enumerate(masks):
        Image.new("RGB", mask.shape[::-1]).save(tmp_path / f"{index:03}.png")
        content = to_labelme(instances_of([mask], [index % 2]), f"{index:03}.png", names)
        (tmp_path / f"{index:03}.json").write_text(json.dumps(content))
    back = from_labelme(tmp_path, tmp_path, names)
    assert len(back["annotations"]) == len(masks)
    for mask, annotation in zip(masks, back["annotations"]):
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            segmentation = mask_utils.merge(mask_utils.frPyObjects(segmentation, *mask.shape))
        assert np.array_equal(mask_utils.decode(segmentation), mask)
    used = {a["category_id"] for a in back["annotations"]}
    assert used == {1, 2}


def test_shapes_of_labelme():
    parts = np.zeros_like(DONUT)
    parts[0, 0:2] = parts[5, 5] = True
    whole = np.zeros_like(DONUT)
    whole[2:5, 3:7] = True
    content = to_labelme(instances_of([whole, parts, DONUT]), "a/b.jpg", ["x"])
    assert content["imagePath"] == "a/b.jpg" and content["imageData"] is None
    assert (content["imageHeight"], content["imageWidth"]) == DONUT.shape
    assert [s["shape_type"] for s in content["shapes"]] == ["polygon"] * 3 + ["mask"]
    assert [s["group_id"] for s in content["shapes"]] == [None, 2, 2, None]
    assert content["shapes"][0]["points"] == [[3, 2], [7, 2], [7, 5], [3, 5]]
    assert content["shapes"][3]["points"] == [[1, 1], [7, 7]]
    assert content["shapes"][0]["description"] == "score 0.900"


def test_a_model_without_masks_gives_boxes():
    instances = instances_of([DONUT])
    instances.remove("pred_masks")
    (annotation,) = to_coco(instances, 1)
    assert "segmentation" not in annotation and annotation["area"] == 49
    (shape,) = to_labelme(instances, "a.png", ["x"])["shapes"]
    assert shape["shape_type"] == "rectangle" and shape["points"] == [[1, 1], [8, 8]]


@pytest.mark.parametrize("count, dtype", [(2, np.uint8), (256, np.uint16)])
def test_numbers_put_better_scores_in_front(count, dtype):
    masks = [np.zeros_like(DONUT) for _ in range(count)]
    masks[0][0:2] = True
    masks[1][1:3] = True
    masks[-1][1, :2] |= count > 2
    numbers = to_numbers(instances_of(masks))
    assert numbers.dtype == dtype
    assert numbers[:4, 0].tolist() == [1, 1, 2, 0]
