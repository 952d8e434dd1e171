"""Datasets whose boxes are all corners or normalised, or whose objects are all crowds."""

import pytest
from coco_files import annotation, coco_content, write_dataset

from mrcnn_plugin.cli.dataset import main


def check(folder, content, capsys):
    json_file = write_dataset(folder, content, size=(40, 30))
    status = main(["check", f"{json_file}:{folder}", "--limit", "1"])
    return status, capsys.readouterr().out


def content_of(boxes, as_corners=lambda x, y, w, h: [x, y, w, h]):
    """A rectangle per box, of which the json has what `as_corners` makes of the box."""
    content = coco_content(1, width=40, height=30)
    content["annotations"] = [
        annotation(
            number,
            1,
            number % 2 + 1,
            bbox=as_corners(x, y, w, h),
            segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
        )
        for number, (x, y, w, h) in enumerate(boxes, start=1)
    ]
    return content


BOXES = [(5, 6, 10, 8), (12, 3, 9, 20), (20, 10, 15, 15)]


def corners(x, y, w, h):
    return [x, y, x + w, y + h]


def test_corners_in_place_of_sizes_are_an_error(tmp_path, capsys):
    status, printed = check(tmp_path, content_of(BOXES, corners), capsys)
    assert status == 1 and "error: boxes-are-corners (1)" in printed
    assert "3 of 3 sampled boxes are [x1, y1, x2, y2], such as [5, 6, 15, 14] around" in printed


def test_boxes_that_could_be_both_are_not(tmp_path, capsys):
    """From (0, 0) both forms are the same; some wrong boxes are not the form of the file."""
    boxes = [(0, 0, 10, 8), (0, 0, 9, 20), (0, 0, 15, 15)]
    assert check(tmp_path, content_of(boxes, corners), capsys)[0] == 0
    content = content_of(BOXES)
    content["annotations"][0]["bbox"] = corners(*BOXES[0])
    assert check(tmp_path, content, capsys)[0] == 0


def test_normalised_boxes_are_an_error(tmp_path, capsys):
    boxes = [(x / 40, y / 30, w / 40, h / 30) for x, y, w, h in BOXES]
    status, printed = check(tmp_path, content_of(boxes), capsys)
    assert status == 1 and "error: normalised-boxes (1)" in printed
    assert "such as [0.125, 0.2, 0.25, 0.26" in printed and "expected pixels" in printed


@pytest.mark.parametrize("kind", ["crowd", "no annotations", "no images", "all dropped"])
def test_nothing_to_train_on_is_an_error(tmp_path, capsys, kind):
    content = content_of(BOXES)
    for one in content["annotations"]:
        one.update({"crowd": {"iscrowd": 1}, "all dropped": {"category_id": 9}}.get(kind, {}))
    if kind in ("no annotations", "no images"):
        content["annotations"] = []
    if kind == "no images":
        content["images"] = []
    json_file = write_dataset(tmp_path, content, size=(40, 30))
    status = main(["check", f"{json_file}:{tmp_path}", "--drop-bad"])
    printed = capsys.readouterr().out
    assert status == 1 and "error: nothing-to-train-on (1)" in printed
    assert ("all of them crowd regions" in printed) == (kind == "crowd")


def test_many_crowds_are_a_warning_and_not_counted(tmp_path, capsys):
    content = content_of(BOXES)
    content["annotations"][0]["iscrowd"] = 1
    status, printed = check(tmp_path, content, capsys)
    assert status == 0 and "warning: many-crowds (1)" in printed
    assert "1 images, 2 annotations to train on and 1 crowd regions; 0 error" in printed
