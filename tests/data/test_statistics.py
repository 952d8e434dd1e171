"""Counts of data sets by hand, and in words; the same of a COCO json and of detectron2's dicts."""

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from coco_files import annotation, coco_content
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from mrcnn_plugin.data.coco_file import to_detectron2
from mrcnn_plugin.data.statistics import coco_statistics, detectron2_statistics, largest_iou
from mrcnn_plugin.data.statistics_output import format_statistics


def counted():
    """Image 1: two discs of 10 x 10 that overlap by half, and a crowd; image 2: a ring; 3: none."""
    content = coco_content(3, width=200, height=100)
    content["annotations"] = [
        annotation(1, 1, 1, bbox=[0, 0, 10, 10], area=100),
        annotation(2, 1, 1, bbox=[5, 0, 10, 10], area=1024),
        annotation(3, 1, 1, bbox=[0, 0, 90, 90], area=8100, iscrowd=1),
        annotation(4, 2, 2, bbox=[0, 0, 100, 98], area=9800),
    ]
    return coco_statistics(content)


def test_counts_by_hand():
    stats = counted()
    assert stats.num_crowds == 1
    assert stats.per_class == {"disc": 2, "ring": 1}
    assert stats.images_per_class == {"disc": 1, "ring": 1}
    # 100 < 32 * 32 = 1024 <= 96 * 96 = 9216 < 9800
    assert stats.sizes == {"small": 1, "medium": 1, "large": 1}
    assert stats.per_image.tolist() == [2, 1, 0]
    # Two boxes of 100 share 50: IoU 50 / 150. The ring is alone.
    assert stats.crowding == pytest.approx([1 / 3, 1 / 3, 0])
    text = format_statistics(stats)
    assert "disc           2       1" in text and "crowding: 0.0% of the boxes" in text


def test_largest_iou():
    boxes = [[0, 0, 4, 4], [0, 0, 4, 2], [2, 0, 4, 4], [50, 50, 1, 1]]
    # 1 and 2: 8 / 16. 1 and 3: 8 / 24. 2 and 3: 4 / 20.
    assert largest_iou(boxes) == pytest.approx([1 / 2, 1 / 2, 1 / 3, 0])
    assert largest_iou([]).shape == (0,) and largest_iou([[0, 0, 1, 1]]).tolist() == [0]


def test_stats_of_nothing():
    content = coco_content(2)
    content["annotations"] = []
    stats = coco_statistics(content)
    assert "2 images (2 without an instance), 0 instances" in format_statistics(stats)


def test_detectron2_dicts_by_hand():
    """Areas of masks, of boxes where there is none; a crowd; an image without any."""

    def box(side, category, **more):
        corners = [5, 5, 5 + side, 5 + side]
        mode = BoxMode.XYXY_ABS
        return {"bbox": corners, "bbox_mode": mode, "category_id": category, **more}

    triangle = [5, 5, 45, 5, 5, 45]  # 40 * 40 / 2 = 800 is small, its box of 1600 is medium
    square = np.zeros((200, 200), np.uint8, order="F")
    square[5:105, 5:105] = 1
    annotations = [
        box(40, 0, segmentation=[triangle]),
        box(50, 1),
        box(100, 1, segmentation=mask_utils.encode(square)),
        box(150, 1, iscrowd=1),
    ]
    dicts = [{"height": 200, "width": 200, "annotations": annotations}, {"annotations": []}]
    stats = detectron2_statistics(dicts, ["a", "b", "c"])
    assert stats.areas.tolist() == [800, 2500, 10000] and stats.num_crowds == 1
    assert stats.boxes == [[[5, 5, s, s] for s in (40, 50, 100)], []]
    assert stats.summary() == {
        "images": 2,
        "empty_images": 1,
        "instances": 3,
        "classes": {"a": 1, "b": 2, "c": 0},
        "sizes": {"small": 1, "medium": 1, "large": 1},
        "per_image": {0: 1, 3: 1},
    }
    assert detectron2_statistics(dicts, []).summary()["instances"] == 3


def test_both_formats_count_the_same():
    content = coco_content(3)
    content["annotations"][1]["iscrowd"] = 1
    dicts = to_detectron2(content, "", "counted")
    MetadataCatalog.remove("counted")
    of_json, of_dicts = coco_statistics(content), detectron2_statistics(dicts, ["disc", "ring"])
    assert of_json.summary() == of_dicts.summary() and of_json.boxes == of_dicts.boxes
    assert of_json.areas.tolist() == of_dicts.areas.tolist() == [24] * 5
