"""mrcnn dataset as it is called."""

import json
import sys

import cv2
import numpy as np
import pytest
from coco_files import coco_content, save_picture, write_dataset

from mrcnn_plugin.cli.main import main


@pytest.fixture
def tool(monkeypatch, capsys):
    """`tool("check", ...)` -> (exit status or message, what was printed)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mrcnn", "dataset", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, capsys.readouterr().out

    return run


def faulty(tmp_path):
    """Annotation 3 is outside its image; 4 has a box without area; 6 is of a third category."""
    content = coco_content(3)
    content["annotations"][2]["bbox"] = [90, 2, 6, 4]
    content["annotations"][3]["bbox"] = [2, 2, 0, 0]
    content["annotations"][5]["category_id"] = 3
    return write_dataset(tmp_path, content)


def test_check_of_good_data(tool, tmp_path):
    path = write_dataset(tmp_path, coco_content(3))
    code, printed = tool("check", path, "--full")
    assert code == 0
    assert printed.strip() == (
        f"{path}: 3 images, 6 annotations to train on; 0 error, 0 dropped, 0 warning, 0 repaired"
    )


def test_check_of_faulty_data_fails_and_says_where(tool, tmp_path):
    path = faulty(tmp_path)
    code, printed = tool("check", f"{path}:{tmp_path}")
    assert code == 1
    for kind, where in (
        ("error: box-outside (1)", "image 2, annotation 3"),
        ("error: unknown-category (1)", "image 3, annotation 6"),
        ("repaired: empty-box (1)", "image 2, annotation 4"),
    ):
        assert kind in printed and f"{path}, {where}: " in printed
    assert printed.endswith("2 error, 0 dropped, 0 warning, 1 repaired\n")


def test_check_leaves_out_and_writes_what_remains(tool, tmp_path):
    path, mended = faulty(tmp_path), tmp_path / "new/mended.json"
    code, printed = tool("check", path, "--drop-bad", "--write", mended)
    assert code == 0 and "0 error, 2 dropped, 0 warning, 1 repaired" in printed
    content = json.loads(mended.read_text())
    assert [a["id"] for a in content["annotations"]] == [1, 2, 4, 5]
    assert content["annotations"][2]["bbox"] == [2, 2, 6, 4]
    code, printed = tool("check", f"{mended}:{tmp_path}")
    assert code == 0 and "0 error, 0 dropped, 0 warning, 0 repaired" in printed


def test_check_against_num_classes_and_validation(tool, tmp_path):
    train = write_dataset(tmp_path / "t", coco_content(3))
    val = write_dataset(tmp_path / "v", coco_content(2))
    assert tool("check", train, "--num-classes", 2, "--val", val)[0] == 0
    code, printed = tool("check", train, "--num-classes", 1)
    assert code == 1 and "set MODEL.ROI_HEADS.NUM_CLASSES 2" in printed
    (tmp_path / "v/2.png").write_bytes((tmp_path / "t/3.png").read_bytes())
    code, printed = tool("check", train, "--val", val)
    assert (
        code == 1
        and f"t/3.png, image 3: the same image is validation image 2, {val.parent}" in printed
    )


def test_classes_of_validation_are_compared_with_those_of_training(tool, tmp_path):
    train = write_dataset(tmp_path / "t", coco_content(2))
    val = write_dataset(tmp_path / "v", coco_content(2, classes=("disc", "star")))
    code, printed = tool("check", train, "--val", val)
    assert code == 1 and printed.count("category 'star' is not among the classes of the run") == 2


def test_errors_are_one_sentence(tool, tmp_path):
    code, _ = tool("check", tmp_path / "gone.json")
    assert code.startswith("mrcnn dataset: ") and "gone.json does not exist" in code
    code, _ = tool("convert", "via", tmp_path / "gone.json", tmp_path, tmp_path / "x.json")
    assert "gone.json cannot be read as json" in code


@pytest.mark.parametrize("command", [(), ("check",), ("stats",), ("draw",), ("convert",)])
def test_help(tool, command):
    code, printed = tool(*command, "--help")
    assert code == 0 and "usage: " in printed
    if not command:
        for example in ("convert labelme", "convert via", "convert masks", "convert voc", "stats"):
            assert f"mrcnn dataset {example}" in printed


def test_draw_colours_the_objects_and_little_else(tool, tmp_path):
    content = coco_content(3, width=120, height=100)
    outline = [30, 30, 90, 30, 90, 70, 30, 70]
    for a in content["annotations"]:
        a.update(bbox=[30, 30, 60, 40], area=2400, segmentation=[outline])
    path = write_dataset(tmp_path, content, pictures=False)
    for image in content["images"]:
        cv2.imwrite(str(tmp_path / image["file_name"]), np.full((100, 120, 3), 128, np.uint8))
    code, _ = tool("draw", path, tmp_path / "drawn", "--num", 2)
    drawn = [cv2.imread(str(p)).astype(int) for p in (tmp_path / "drawn").iterdir()]
    assert not code and len(drawn) == 2
    for picture in drawn:
        assert picture.shape == (100, 120, 3)
        assert np.abs(picture[55:68, 33:87] - 128).max(-1).mean() > 10
        assert np.abs(picture[80:, :] - 128).max() < 10


def test_stats(tool, tmp_path):
    path = write_dataset(tmp_path, coco_content(3))
    code, printed = tool("stats", path, "--plot", tmp_path / "plots/stats.png")
    assert not code and "3 images (0 without an instance), 6 instances, 0 crowd" in printed
    picture = cv2.imread(str(tmp_path / "plots/stats.png"))
    assert picture.shape[1] > 800 and picture.std() > 10


def test_stats_do_not_count_what_is_unusable(tool, tmp_path):
    _, printed = tool("stats", faulty(tmp_path))
    assert "4 instances" in printed and "not counted: 2 unusable" in printed


def test_convert_then_check(tool, tmp_path):
    square = {"name": "rect", "x": 2, "y": 2, "width": 6, "height": 4}
    regions = [{"shape_attributes": square, "region_attributes": {"kind": k}} for k in "ba"]
    (tmp_path / "via.json").write_text(json.dumps({"x": {"filename": "x.png", "regions": regions}}))
    save_picture(tmp_path / "x.png")
    (tmp_path / "names.txt").write_text("b\na\n")
    arguments = ("convert", "via", tmp_path / "via.json", tmp_path, tmp_path / "out/my.json")
    for classes, expected in (((), "a, b"), (("--classes", "b,a"), "b, a")):
        code, printed = tool(*arguments, *classes)
        assert code == 0 and f"1 images, 2 objects, classes {expected}" in printed
    tool(*arguments, "--classes", tmp_path / "names.txt")
    content = json.loads((tmp_path / "out/my.json").read_text())
    assert [c["name"] for c in content["categories"]] == ["b", "a"]
