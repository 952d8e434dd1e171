"""`mrcnn dataset tile`, called as on the command line, to a split of the tiles."""

import json
import shlex

import pytest
from coco_files import annotation, coco_content, write_dataset

from mrcnn_plugin.cli.dataset import main


@pytest.fixture
def scans(tmp_path):
    """Four images of 100 x 60 pixels with 60 x 40 rectangles, which no tile of 48 holds."""
    content = coco_content(4, width=100, height=60)
    outline = [10, 10, 70, 10, 70, 50, 10, 50]
    content["annotations"] = [
        annotation(i, i, bbox=[10, 10, 60, 40], area=2400, segmentation=[outline])
        for i in range(1, 5)
    ]
    return write_dataset(tmp_path / "scans", content, size=(100, 60))


def tile(scans, out, *options):
    arguments = ("--size", 48, "--overlap", 8, *options)
    return main(["tile", str(scans), "--out", str(out), *map(str, arguments)])


def test_tile_check_split(scans, tmp_path, capsys):
    """The tiles pass the check, and the split that is printed keeps those of a source together."""
    assert tile(scans, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "4 images: 24 tiles, 0 of them without objects (0 kept); 4 objects: 24" in printed
    split = shlex.split(printed.partition("next: mrcnn dataset ")[2])
    assert main(["check", split[1], "--full"]) == 0
    printed = capsys.readouterr().out
    assert "24 images, 24 annotations to train on; 0 error" in printed
    assert "the images are tiles of larger ones, which --val-fraction separates" in printed
    assert main(split) == 0
    folder = tmp_path / "out/split"
    contents = [json.loads((folder / f"{p}.json").read_text()) for p in ("train", "val", "test")]
    sources = [{image["tile"]["file_name"] for image in c["images"]} for c in contents]
    assert all(sources) and sum(map(len, sources)) == 4
    assert sum(len(c["images"]) for c in contents) == 24


def test_nothing_is_left_of_an_interruption(scans, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("mrcnn_plugin.cli.dataset_tile.write_json", interrupt)
    before = {*tmp_path.rglob("*")}
    with pytest.raises(KeyboardInterrupt):
        tile(scans, tmp_path / "out")
    assert {*tmp_path.rglob("*")} == before


def test_mistakes(scans, tmp_path):
    assert "--overlap is 48; expected from 1 to 47" in tile(scans, tmp_path / "a", "--overlap", 48)
    assert "--size is 0; expected the side of a tile" in tile(scans, tmp_path / "a", "--size", 0)
    with pytest.raises(SystemExit):
        tile(scans, tmp_path / "a", "--empty", 2)
    assert "exists already" in tile(scans, scans.parent)
    content = json.loads(scans.read_text())
    content["annotations"][0]["category_id"] = 9
    scans.write_text(json.dumps(content))
    assert "the data have errors. Fix them" in tile(scans, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert tile(scans, tmp_path / "a", "--drop-bad") == 0
    image = {**content["images"][0], "file_name": str(scans.parent / "1.png")}
    scans.write_text(json.dumps({**content, "images": [image], "annotations": []}))
    assert "1.png is not relative to the image directory" in tile(f"{scans}:/", tmp_path / "b")


def test_images_above_the_limit_of_pillow(scans, tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 2000)
    assert "--max-pixels" in tile(scans, tmp_path / "a")
    assert tile(scans, tmp_path / "a", "--max-pixels", 6000) == 0
