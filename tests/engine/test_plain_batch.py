"""A batch is the same after it was converted to plain values, saved and read again."""

from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import (
    BitMasks,
    Boxes,
    Instances,
    Keypoints,
    PolygonMasks,
    RotatedBoxes,
)

from mrcnn_plugin.engine.plain_batch import from_plain, to_plain


def through_a_file(value, tmp_path):
    torch.save(to_plain(value), tmp_path / "batch.pth")
    return from_plain(torch.load(tmp_path / "batch.pth", weights_only=True))


def test_structures(tmp_path):
    polygons = [[np.array([0.0, 0.0, 5.0, 0.0, 5.0, 5.5])], [np.arange(8.0), np.arange(6.0)]]
    instances = Instances((6, 7))
    instances.gt_boxes = Boxes(torch.rand(2, 4))
    instances.gt_classes = torch.tensor([1, 2])
    instances.gt_masks = PolygonMasks(polygons)
    instances.gt_keypoints = Keypoints(torch.rand(2, 3, 3))
    instances.rotated = RotatedBoxes(torch.rand(2, 5))
    instances.bits = BitMasks(torch.rand(2, 6, 7) > 0.5)
    found = through_a_file([{"instances": instances}], tmp_path)[0]["instances"]
    assert type(found) is Instances and found.image_size == (6, 7)
    assert list(found.get_fields()) == list(instances.get_fields())
    for name in ("gt_boxes", "gt_keypoints", "rotated", "bits"):
        before, after = instances.get(name), found.get(name)
        assert type(after) is type(before)
        assert after.tensor.dtype == before.tensor.dtype
        assert torch.equal(after.tensor, before.tensor)
    assert torch.equal(found.gt_classes, instances.gt_classes)
    for before, after in zip(polygons, found.gt_masks.polygons, strict=True):
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype


def test_values(tmp_path):
    class Mode(IntEnum):
        XYXY = 3

    values = {"a": None, "b": [True, 1, 2.5, "text", b"x"], "c": np.float32(1.5), "d": Mode.XYXY}
    found = through_a_file({**values, "e": np.arange(3), "f": (1, {"g": torch.ones(2)})}, tmp_path)
    assert {k: found[k] for k in values} == values and type(found["d"]) is int
    assert found["e"].tolist() == [0, 1, 2] and isinstance(found["e"], np.ndarray)
    assert found["f"][0] == 1 and found["f"][1]["g"].tolist() == [1, 1]


def test_a_value_without_a_plain_form_is_dropped_and_named(tmp_path, caplog):
    image = {"image": torch.ones(3, 2, 2), "source": Path("x.png")}
    assert list(through_a_file([image], tmp_path)[0]) == ["image"]
    assert "'source' of the batch is not saved: PosixPath has no plain form" in caplog.text


def test_depth_is_bounded():
    value = []
    for _ in range(30):
        value = [value]
    with pytest.raises(ValueError, match="nested in more than 20 levels"):
        from_plain(value)
