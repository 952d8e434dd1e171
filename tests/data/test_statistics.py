"""Statistics of datasets, counted by hand, as text, and saved."""

import pytest
from coco_files import annotation, coco_content

from mrcnn_plugin.data.statistics import (
    coco_statistics,
    largest_iou,
    read_statistics,
    save_statistics,
)
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
    # Two boxes of 100 share 50: IoU 50 / 150. The ring has no other box.
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


def test_summary_by_hand():
    assert counted().summary() == {
        "images": 3,
        "empty_images": 1,
        "instances": 3,
        "classes": {"disc": 2, "ring": 1},
        "sizes": {"small": 1, "medium": 1, "large": 1},
        "per_image": {0: 1, 1: 1, 2: 1},
    }


def test_saved_statistics_are_read_again(tmp_path):
    assert read_statistics(tmp_path, "a") is None
    saved = counted()
    save_statistics(saved, tmp_path, "a")
    found = read_statistics(tmp_path, "a")
    assert found.summary() == saved.summary()
    assert found.areas.tolist() == saved.areas.tolist()
    assert found.crowding == pytest.approx(saved.crowding, abs=1e-3)
    assert format_statistics(found) == format_statistics(saved)
