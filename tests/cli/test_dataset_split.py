"""`mrcnn dataset split`, called as on the command line."""

import json
import shlex

import numpy as np
import pytest
from coco_files import coco_content, write_dataset
from PIL import Image

from mrcnn_plugin.cli.dataset import main
from mrcnn_plugin.cli.train import argument_parser


@pytest.fixture
def video(tmp_path):
    """Six clips of three frames; clip5 begins as clip0 does. A frame is of 8 x 4 blocks."""
    content = coco_content(18, width=160, height=80)
    rng = np.random.default_rng(0)
    for k, image in enumerate(content["images"]):
        image["file_name"] = f"clip{k // 3}_frame{k % 3}.png"
    path = write_dataset(tmp_path, content, images=False)
    frames = rng.integers(0, 256, (18, 4, 8, 3), np.uint8)
    frames[15] = frames[0]
    for image, blocks in zip(content["images"], frames):
        pixels = np.kron(blocks, np.ones((20, 20, 1), np.uint8))
        Image.fromarray(pixels).save(tmp_path / image["file_name"])
    return path


def names_of(folder, *parts):
    contents = [json.loads((folder / f"{part}.json").read_text()) for part in parts]
    return [[image["file_name"] for image in content["images"]] for content in contents]


def test_groups_and_near_duplicates_stay_together(video, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["split", str(video), "--out", str(out), "--group-by", "(clip.)_"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    parts = names_of(out, "train", "val", "test")
    assert sorted(name for names in parts for name in names) == sorted(
        names_of(tmp_path, "data")[0]
    )
    clips = [{name[:5] for name in names} for names in parts]
    assert all(clips) and sum(map(len, clips)) == 6
    assert sum({"clip0", "clip5"} <= side for side in clips) == 1
    assert "1 near duplicates stay together" in printed
    assert "clip0_frame0.png" in printed and "clip5_frame0.png (0 bits differ)" in printed
    lines = [line.split() for line in printed.splitlines()]
    assert ["images", *(str(len(names)) for names in parts)] in lines
    assert ["disc", *(str(len(names)) for names in parts)] in lines

    train, test = (line for line in printed.splitlines() if "mrcnn train" in line)
    args = argument_parser().parse_args(shlex.split(train)[3:])
    assert args.train == [f"train={out}/train.json:{tmp_path}"]
    assert args.val == [f"val={out}/val.json:{tmp_path}"]
    assert argument_parser().parse_args(shlex.split(test.partition("train ")[2])).eval_only


def test_a_seed_keeps_images_in_their_parts_when_others_are_added(video, tmp_path):
    """Also without the images, if they are not searched for near duplicates."""
    content = json.loads(video.read_text())
    few = {**content, "images": content["images"][:9], "annotations": []}
    video.with_name("few.json").write_text(json.dumps(few))
    for name in ("data", "few"):
        options = ["--out", str(tmp_path / name), "--seed", "1", "--no-similar"]
        fractions = "--fractions", "0.5", "0.25", "0.25"
        assert main(["split", f"{tmp_path / name}.json:gone", *options, *fractions]) == 0
    for few, many in zip(
        *(names_of(tmp_path / n, "train", "val", "test") for n in ("few", "data"))
    ):
        assert few and set(few) <= set(many)


def test_parts_are_overwritten_only_together_and_on_request(video, tmp_path, capsys):
    command = ["split", str(video), "--out", str(tmp_path / "out"), "--no-similar"]
    assert main(command) == 0
    assert "train.json exists already" in main([*command, "--fractions", "0.8", "0.2"])
    assert main([*command, "--fractions", "0.8", "0.2", "--overwrite"]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"train.json", "val.json"}

    train = tmp_path / "out/train.json"
    before = train.read_bytes()
    command = ["split", f"{train}:{tmp_path}", "--out", str(tmp_path / "out"), "--overwrite"]
    assert "train.json would be overwritten" in main(command)
    assert train.read_bytes() == before


def test_images_that_cannot_be_compared_are_counted(video, tmp_path, capsys):
    (tmp_path / "clip1_frame1.png").write_bytes(b"no image")
    assert main(["split", str(video), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert f"1 images, such as {tmp_path}/clip1_frame1.png, cannot be read" in printed


def test_a_wrong_image_directory(video, tmp_path):
    command = ["split", f"{video}:{tmp_path}/gone", "--out", str(tmp_path / "out")]
    assert f"no image can be read, such as {tmp_path}/gone/clip0_frame0.png" in main(command)
    assert not (tmp_path / "out").exists()
