"""`mrcnn dataset`, called as on the command line."""

import json
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
from coco_files import coco_content, save_image, write_dataset

from mrcnn_plugin.cli.dataset import main
from mrcnn_plugin.cli.train import argument_parser
from mrcnn_plugin.config_file import get_config_file
from mrcnn_plugin.errors import RunError


@pytest.fixture
def tool(capsys):
    """`tool("check", ...)` -> (exit status or message, what was printed)."""

    def run(*arguments):
        try:
            code = main(list(map(str, arguments)))
        except SystemExit as stop:  # --help
            code = stop.code
        return code, capsys.readouterr().out

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
    assert printed.startswith(
        f"{path}: 3 images, 6 annotations to train on; 0 error, 0 dropped, 0 warning, 0 repaired\n"
        "next: mrcnn train "
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


def test_check_drops_and_writes_what_remains(tool, tmp_path):
    path, repaired = faulty(tmp_path), tmp_path / "new/repaired.json"
    code, printed = tool("check", path, "--drop-bad", "--write", repaired)
    assert code == 0 and "0 error, 2 dropped, 0 warning, 1 repaired" in printed
    content = json.loads(repaired.read_text())
    assert [a["id"] for a in content["annotations"]] == [1, 2, 4, 5]
    assert content["annotations"][2]["bbox"] == [2, 2, 6, 4]
    code, printed = tool("check", f"{repaired}:{tmp_path}")
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
    code, _ = tool("check", "a b=x.json")
    assert code.startswith("mrcnn dataset: 'a b=x.json' is not a dataset: expected name=path/to/")


EXAMPLES = {
    "check": ("check my.json:photos --full",),
    "stats": ("stats my.json:photos --plot stats.png",),
    "draw": ("draw my.json:photos drawn/ --num 20",),
    "convert": ("convert labelme", "convert via", "convert masks", "convert voc"),
}


@pytest.mark.parametrize("command", [None, *EXAMPLES])
def test_help_has_examples(tool, command):
    code, printed = tool(*([command] if command else []), "--help")
    assert code == 0 and "usage: mrcnn dataset" in printed
    for example in EXAMPLES[command] if command else sum(EXAMPLES.values(), ()):
        assert f"mrcnn dataset {example}" in printed


def test_draw_stays_in_its_directory(tool, tmp_path):
    """Image ids are arbitrary text; as part of a file name they must not lead elsewhere."""
    content = coco_content(2)
    content["images"][0]["id"] = "../../escape"
    content["images"][1]["id"] = "/root"
    content["annotations"] = []
    path = write_dataset(tmp_path / "data", content)
    before = {*tmp_path.rglob("*")}
    code, _ = tool("draw", path, tmp_path / "a/b/drawn")
    new = {p for p in tmp_path.rglob("*") if p.is_file()} - before
    assert not code and len(new) == 2
    assert {p.parent for p in new} == {tmp_path / "a/b/drawn"}
    assert {p.name for p in new} == {".._.._escape_1.jpg", "_root_2.jpg"}


def test_draw_colours_the_objects_and_little_else(tool, tmp_path):
    content = coco_content(3, width=120, height=100)
    outline = [30, 30, 90, 30, 90, 70, 30, 70]
    for a in content["annotations"]:
        a.update(bbox=[30, 30, 60, 40], area=2400, segmentation=[outline])
    path = write_dataset(tmp_path, content, images=False)
    for image in content["images"]:
        cv2.imwrite(str(tmp_path / image["file_name"]), np.full((100, 120, 3), 128, np.uint8))
    code, _ = tool("draw", path, tmp_path / "drawn", "--num", 2)
    drawn = [cv2.imread(str(p)).astype(int) for p in (tmp_path / "drawn").iterdir()]
    assert not code and len(drawn) == 2
    for image in drawn:
        assert image.shape == (100, 120, 3)
        assert np.abs(image[55:68, 33:87] - 128).max(-1).mean() > 10
        assert np.abs(image[80:, :] - 128).max() < 10


def test_stats(tool, tmp_path):
    path = write_dataset(tmp_path, coco_content(3))
    code, printed = tool("stats", path, "--plot", tmp_path / "plots/stats.png")
    assert not code and "3 images (0 without an instance), 6 instances, 0 crowd" in printed
    image = cv2.imread(str(tmp_path / "plots/stats.png"))
    assert image.shape[1] > 800 and image.std() > 10


def test_stats_do_not_count_unusable_entries(tool, tmp_path):
    _, printed = tool("stats", faulty(tmp_path))
    assert "4 instances" in printed and "not counted: 2 unusable" in printed


def test_convert_then_check(tool, tmp_path):
    square = {"name": "rect", "x": 2, "y": 2, "width": 6, "height": 4}
    regions = [{"shape_attributes": square, "region_attributes": {"kind": k}} for k in "ba"]
    (tmp_path / "via.json").write_text(json.dumps({"x": {"filename": "x.png", "regions": regions}}))
    save_image(tmp_path / "x.png")
    (tmp_path / "names.txt").write_text("b\na\n")
    arguments = ("convert", "via", tmp_path / "via.json", tmp_path, tmp_path / "out/my.json")
    for classes, expected in (((), "a, b"), (("--classes", "b,a"), "b, a")):
        code, printed = tool(*arguments, *classes)
        assert code == 0 and f"1 images, 2 objects, classes {expected}" in printed
    tool(*arguments, "--classes", tmp_path / "names.txt")
    content = json.loads((tmp_path / "out/my.json").read_text())
    assert [c["name"] for c in content["categories"]] == ["b", "a"]


def test_convert_does_not_overwrite_what_it_reads(tool, tmp_path):
    """The same file by another path, a link to it, and a labelme file in the folder."""
    square = {"name": "rect", "x": 2, "y": 2, "width": 6, "height": 4}
    region = {"shape_attributes": square, "region_attributes": {"kind": "a"}}
    via = {"x": {"filename": "x.png", "regions": [region]}}
    shape = {"label": "a", "points": [[2, 2], [8, 2], [8, 6]]}
    labelme = {"shapes": [shape], "imagePath": "x.png"}
    (tmp_path / "via.json").write_text(json.dumps(via))
    (tmp_path / "link.json").symlink_to(tmp_path / "via.json")
    (tmp_path / "labelme").mkdir()
    (tmp_path / "labelme/x.json").write_text(json.dumps(labelme))
    save_image(tmp_path / "x.png")
    save_image(tmp_path / "labelme/x.png")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.json")}
    for kind, source, images, output in (
        ("via", "via.json", ".", "labelme/../via.json"),
        ("via", "via.json", ".", "link.json"),
        ("labelme", "labelme", "labelme", "labelme/x.json"),
    ):
        code, _ = tool("convert", kind, *(tmp_path / p for p in (source, images, output)))
        assert f"{Path(output).name} is one of the annotation files to convert" in code
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.json")} == before
    arguments = ("convert", "labelme", *[tmp_path / "labelme"] * 2, tmp_path / "labelme/my.json")
    assert [tool(*arguments)[0] for _ in range(2)] == [0, 0]  # its own output may be replaced


def test_check_prints_the_command_that_trains(tool, tmp_path):
    good = write_dataset(tmp_path / "a b", coco_content(3))
    _, printed = tool("check", f"my={good}:{good.parent}", "--drop-bad")
    command = shlex.split(printed.partition("next: mrcnn train ")[2])
    args = argument_parser().parse_args(command)
    assert args.train == [f"my={good}:{good.parent}"] and args.val_fraction == 0.2
    assert args.epochs == 20 and args.drop_bad
    assert get_config_file(args.config_file)
    assert "next:" not in tool("check", faulty(tmp_path / "bad"))[1]


def test_draw_augmented(tool, tmp_path):
    """Variants differ, the same seed gives the same files, and the config decides."""
    path = write_dataset(tmp_path, coco_content(2, width=60, height=40), size=(60, 40))
    aug = ["--opts", "INPUT.AUG.ENABLED", True, "INPUT.MIN_SIZE_TRAIN", "(40,)"]
    options = ["INPUT.AUG.ROTATION", 30, "INPUT.AUG.CROP", "(0.8, 1.0)"]
    contents = []
    for name in ("a", "b"):
        code, printed = tool("draw", path, tmp_path / name, "--augmented", 3, *aug, *options)
        assert not code and "6 images drawn" in printed and "detectron2's" not in printed
        contents.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1] and len(set(contents[0].values())) == 6
    assert "1_1_2.jpg" in contents[0]

    code, printed = tool("draw", path, tmp_path / "off", "--augmented", "--num", 1)
    assert not code and "1 images drawn" in printed and "INPUT.AUG.ENABLED is False" in printed


def test_draw_augmented_reports_mistakes_in_one_sentence(tool, tmp_path, capsys):
    path = write_dataset(tmp_path, coco_content(1))
    aug = ["--opts", "INPUT.AUG.ENABLED", True, "INPUT.AUG.CROP", "(2.0, 3.0)"]
    with pytest.raises(RunError, match=r"INPUT\.AUG\.CROP is \(2\.0, 3\.0\); expected"):
        tool("draw", path, tmp_path / "drawn", "--augmented", 1, *aug)
    code = tool("draw", path, tmp_path / "drawn", "--augmented", 0)[0]
    assert code == 2
