"""`mrcnn predict`: what it reads, what it writes, and what remains after faults and signals."""

import csv
import gzip
import json
import os
import random
import re
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from builders import tiny_model_file
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from mrcnn_plugin.checkpoint.files import write_atomically
from mrcnn_plugin.cli import dataset, predict
from mrcnn_plugin.data import make_shapes
from mrcnn_plugin.errors import RunError, one_sentence
from mrcnn_plugin.inference.masks import RLEMasks
from mrcnn_plugin.inference.shards import Shard, check_finished, read_shards, write_shard


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return tiny_model_file(tmp_path_factory.mktemp("model") / "model.pth")


@pytest.fixture
def photos(tmp_path):
    """Four images in two subdirectories, as JPEG and PNG, and files that are no images."""
    folder = tmp_path / "photos"
    make_shapes(folder / "a/shapes.json", 3, seed=1)
    make_shapes(folder / "b/shapes.json", 1, seed=2)
    image = cv2.imread(str(folder / "a/00003.png"))
    cv2.imwrite(str(folder / "a/00003.JPG"), image)
    (folder / "a/00003.png").unlink()
    (folder / ".hidden.png").write_bytes(b"")
    return folder


NAMES = ["a/00001.png", "a/00002.png", "a/00003.JPG", "b/00001.png"]


def run(model_file, *arguments, threshold=0.1):
    options = ["--device", "cpu", "--threshold", threshold]
    return predict.main([str(a) for a in (model_file, *arguments, *options)])


def files_below(folder):
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_output_agrees(model_file, photos, tmp_path, capsys):
    kinds = ["--coco", "--labelme", "--csv", "--masks", "--scale", "0.5"]
    assert run(model_file, photos, "--out", tmp_path / "out", *kinds, "--batch-size", 3) == 0
    out = tmp_path / "out"
    assert files_below(out) == sorted(
        [
            *(f"overlays/{name}" for name in NAMES),
            *(f"labelme/{name[:7]}.json" for name in NAMES),
            *(f"masks/{name[:7]}.png" for name in NAMES),
            *("predictions.json", "predictions.csv", "counts.csv"),
        ]
    )
    coco = COCO(str(out / "predictions.json"))
    assert [image["file_name"] for image in coco.dataset["images"]] == NAMES
    rows, counts = rows_of(out / "predictions.csv"), rows_of(out / "counts.csv")
    assert len(rows) == len(coco.anns) > 8
    assert sorted(coco.anns) == list(range(1, len(rows) + 1))
    for row, annotation in zip(rows, coco.dataset["annotations"]):
        image = coco.imgs[annotation["image_id"]]["file_name"]
        assert row["image"] == image
        assert row["class"] == coco.cats[annotation["category_id"]]["name"]
        assert float(row["score"]) == annotation["score"] >= 0.1
        assert [float(row[k]) for k in ("x", "y", "width", "height")] == annotation["bbox"]
        area = mask_utils.area(annotation["segmentation"])
        assert int(row["area_pixels"]) == area == annotation["area"] > 0
        assert float(row["area_mm2"]) == area * 0.25
        numbers = cv2.imread(str(out / f"masks/{image[:7]}.png"), cv2.IMREAD_UNCHANGED)
        mask = coco.annToMask(annotation).astype(bool)
        in_front = (numbers > 0) & (numbers <= int(row["instance"]))
        assert in_front[mask].all()  # of it, or of one with a better score
    for count in counts:
        own = [row["class"] for row in rows if row["image"] == count["image"]]
        assert int(count["total"]) == len(own)
        assert int(count["cup"]) == own.count("cup")
    printed = capsys.readouterr().out
    assert f"4 images, {len(rows)} instances: " in printed
    assert f"labelme {out}/labelme, correct the polygons" in printed


def test_predictions_are_read_back_unchanged(model_file, photos, tmp_path, capsys):
    """`dataset convert labelme` and `dataset check` see the masks of predictions.json."""
    out = tmp_path / "out"
    assert run(model_file, photos, "--out", out, "--coco", "--labelme", "--no-overlays") == 0
    assert dataset.main(["check", f"{out}/predictions.json:{photos}", "--full"]) == 0
    printed = capsys.readouterr().out
    assert "0 error, 0 dropped, 0 warning, 0 repaired" in printed
    back = tmp_path / "corrected.json"
    names = ["--classes", "apple,cup,pen"]
    source = ["convert", "labelme", str(out / "labelme"), str(photos), str(back), *names]
    assert dataset.main(source) == 0
    one, other = COCO(str(out / "predictions.json")), COCO(str(back))
    assert [i["file_name"] for i in one.dataset["images"]] == [
        i["file_name"] for i in other.dataset["images"]
    ]

    def objects(coco):
        return [
            (a["image_id"], a["category_id"], coco.annToRLE(a)["counts"])
            for a in coco.dataset["annotations"]
        ]

    def as_bytes(found):
        return [(i, c, k if isinstance(k, bytes) else k.encode()) for i, c, k in found]

    assert as_bytes(objects(one)) == as_bytes(objects(other))


def test_overlays_show_the_instances_in_the_colours_of_their_class(model_file, photos, tmp_path):
    assert run(model_file, photos, "--out", tmp_path / "out") == 0
    for name in NAMES:
        drawn = cv2.imread(str(tmp_path / "out/overlays" / name))
        image = cv2.imread(str(photos / name))
        assert drawn.shape == image.shape
        assert (np.abs(drawn.astype(int) - image) > 60).any()
    assert files_below(tmp_path / "out") == [f"overlays/{name}" for name in NAMES]


def test_inputs_of_every_kind_are_predicted_once(model_file, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos/list.txt").write_text("a/00001.png\n\nb/00001.png\n")
    inputs = ("photos/list.txt", "photos/a/*.png", "photos/b", "photos/a/00001.png")
    kinds = ("--csv", "--no-overlays")
    assert run(model_file, *inputs, "--out", "photos/out", *kinds) == 0
    images = [row["image"] for row in rows_of("photos/out/counts.csv")]
    assert images == ["a/00001.png", "a/00002.png", "b/00001.png"]
    # The results lie below the input and are not taken for images.
    (photos / "out/overlays").mkdir()
    cv2.imwrite(str(photos / "out/overlays/1.png"), np.zeros((9, 9, 3), np.uint8))
    for _ in range(2):
        assert run(model_file, "photos", "--out", "photos/out", *kinds) == 0
        assert [row["image"] for row in rows_of("photos/out/counts.csv")] == NAMES
    assert "next: mrcnn predict" in capsys.readouterr().out


def test_equal_names_do_not_overwrite_each_other(model_file, photos, tmp_path):
    image = cv2.imread(str(photos / "a/00001.png"))
    for name in ("x/same.png", "y/same.png", "y/same.jpg", "y/same.jpg.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), image)
    kinds = ["--labelme", "--masks"]
    assert run(model_file, tmp_path / "x", tmp_path / "y", "--out", tmp_path / "out", *kinds) == 0
    found = files_below(tmp_path / "out")
    assert [f for f in found if f.startswith("overlays")] == [
        *("overlays/x/same.png", "overlays/y/same.jpg", "overlays/y/same.jpg.png"),
        "overlays/y/same.png",
    ]
    assert [f for f in found if f.startswith("labelme")] == [
        *("labelme/x/same.json", "labelme/y/same.jpg.json", "labelme/y/same.jpg.png.json"),
        "labelme/y/same.png.json",
    ]
    assert sum(f.startswith("masks/") for f in found) == 4


@pytest.mark.parametrize("inputs, out", [("photos", "photos"), ("ph*/**/*.[pJ]*", "link/out")])
def test_results_are_never_inputs(inputs, out, model_file, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to(photos)
    for _ in range(2):
        assert run(model_file, inputs, "--out", out, "--csv", "--masks") == 0
    images = [row["image"] for row in rows_of(Path(out, "counts.csv"))]
    assert images == NAMES


def test_the_next_command_finds_the_same(model_file, photos, tmp_path, capsys):
    options = ["--tile", 64, "--no-overlays", "--csv"]
    assert run(model_file, photos, "--out", tmp_path / "out", *options) == 0
    (printed,) = [line for line in capsys.readouterr().out.splitlines() if "next:" in line]
    assert "--tile 64 --csv" in printed and "--threshold 0.1 --labelme --no-overlays" in printed


def test_corrected_labelme_files_are_not_overwritten(model_file, photos, tmp_path):
    arguments = photos / "b", "--out", tmp_path / "out", "--labelme", "--no-overlays"
    assert run(model_file, *arguments) == 0
    with pytest.raises(RunError, match="out/labelme has labelme files, and corrections in them"):
        run(model_file, *arguments)


def test_labelme_files_below_a_symbolic_link(model_file, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk/of/others").mkdir(parents=True)
    Path("output").symlink_to("disk/of/others")
    assert run(model_file, "photos", "--out", "output", "--labelme", "--no-overlays") == 0
    assert dataset.main(["convert", "labelme", "output/labelme", "photos", "back.json"]) == 0
    assert [image["file_name"] for image in COCO("back.json").dataset["images"]] == NAMES


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (96, 64))
    for _ in range(5):
        video.write(np.random.randint(0, 256, (64, 96, 3), np.uint8))
    video.release()
    return path


def test_frames_of_a_video(model_file, film, tmp_path, capsys):
    assert run(model_file, film, "--out", tmp_path / "out", "--coco", "--labelme") == 0
    names = [f"film.avi/{k:06}.png" for k in range(5)]
    found = files_below(tmp_path / "out")
    assert [f"overlays/{name}" for name in names] == [f for f in found if "overlays" in f]
    # labelme and COCO need files: the frames are next to the json files of labelme.
    assert dataset.main(["check", f"{tmp_path}/out/predictions.json:{tmp_path}/out/labelme"]) == 0
    content = json.loads((tmp_path / "out/labelme/film.avi/000003.json").read_text())
    assert content["imagePath"] == "000003.png"
    assert f"out/labelme {tmp_path}/out/labelme corrected.json" in capsys.readouterr().out


def test_the_next_command_for_images_and_videos(model_file, photos, film, tmp_path, capsys):
    """Their common directory has the frames too, which are next to the labelme files."""
    inputs, out = (photos / "b", film), tmp_path / "out"
    assert run(model_file, *inputs, "--out", out, "--labelme", "--no-overlays") == 0
    assert f"convert labelme {out}/labelme {tmp_path} corrected" in capsys.readouterr().out
    back = tmp_path / "corrected.json"
    assert dataset.main(["convert", "labelme", str(out / "labelme"), str(tmp_path), str(back)]) == 0
    assert dataset.main(["check", f"{back}:{tmp_path}"]) == 0


def test_names_that_are_not_utf8(film, photos, tmp_path, monkeypatch, capsys):
    """OpenCV crashes on them."""
    folder = os.fsencode(tmp_path / "names")
    os.mkdir(folder)
    os.rename(film, folder + b"/film\xff.avi")
    os.rename(photos / "b/00001.png", folder + b"/image\xff.png")
    monkeypatch.setattr(predict, "Predictor", FakePredictor)
    assert run("m.pth", tmp_path / "names", "--out", tmp_path / "out", "--coco", "--csv") == 0
    found = COCO(str(tmp_path / "out/predictions.json")).dataset["images"]
    assert len(found) == 6 and os.path.exists(folder + b"/" + os.fsencode(found[-1]["file_name"]))


def test_unreadable_files_are_named_counted_and_skipped(model_file, photos, film, tmp_path, capsys):
    (photos / "a/00002.png").write_bytes((photos / "a/00002.png").read_bytes()[:300])
    (photos / "a/text.jpg").write_text("text")
    os.mkfifo(photos / "a/fifo.jpg")
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(photos / "a/deep.png")
    content = film.read_bytes()
    (photos / "half.avi").write_bytes(content[: len(content) // 2])
    (photos / "list.txt").write_text("a/00001.png\nmissing.png\n")
    assert run(model_file, photos, photos / "list.txt", "--out", tmp_path / "out", "--csv") == 1
    printed, errors = capsys.readouterr()
    assert "6 files could not be read" in printed
    for name, fault in {
        "a/00002.png": "cannot be read as an image (",
        "a/text.jpg": "cannot be read as an image (Unidentified",
        "a/fifo.jpg": "is a FIFO, expected a regular file",
        "a/deep.png": "has 16 or 32 bits per pixel",
        "half.avi": "the video ends after",
        "missing.png": "the file does not exist",
    }.items():
        assert f"unreadable: {photos}/{name}: {fault}" in errors
    images = [row["image"] for row in rows_of(tmp_path / "out/counts.csv")]
    assert {"a/00001.png", "a/00003.JPG", "b/00001.png"} <= {*images}
    assert not {"a/00002.png", "a/text.jpg"} & {*images}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nothing*.png"], r"'nothing\*.png' does not exist and no file matches it; expected"),
        (["."], r"\. has no image or video; expected files that end in \.jpg"),
        (["a.png", "--scale", "1"], "--scale has no effect without --csv"),
        (["a.png", "--overlap", "10"], "--overlap has no effect without --tile"),
        (["a.png", "--no-overlays"], "nothing would be written"),
        (["a.png", "--shard", "17/16"], r"--shard is '17/16'; expected I/N with I from 1 to N"),
        (["a.png", "--shard", "1/2", "--csv"], "--shard writes one file of its own kind"),
        (["a.png", "--csv", "--scale", "-1"], r"--scale is -1\.0; expected millimetres"),
        (["a.png", "--csv", "--scale", "nan"], "--scale is nan; expected millimetres"),
        (["a.png", "--labelme", "--simplify", "-1"], r"--simplify is -1\.0; expected a number of"),
        (["a.png", "--tile", "10", "--overlap", "10"], "tiles of 10 pixels overlap by 10"),
        (
            ["a.png", "--out", "a.png/b"],
            r"--out 'a\.png/b' cannot be written to \(Not",
        ),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, model_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "." not in arguments:
        Image.new("RGB", (20, 20)).save("a.png")
    with pytest.raises(RunError, match=message) as error:
        run(model_file, "--out", "out", *arguments)
    assert "\n" not in str(error.value)


def test_a_wrong_model_file_is_one_sentence(photos, tmp_path, capsys):
    torch.save({"model": {}}, tmp_path / "weights.pth")
    for name, message in (("weights.pth", "has no config"), ("none.pth", "does not exist")):
        arguments = [str(tmp_path / name), str(photos), "--out", str(tmp_path / "out")]
        assert one_sentence("mrcnn predict", predict.main, arguments) == 1
        assert re.fullmatch(rf"mrcnn predict: .*{message}.*\n", capsys.readouterr().err)


def test_a_full_disk_is_one_sentence(model_file, photos, tmp_path, monkeypatch):
    def full(path, write):
        def fail(file):
            write(file)
            raise OSError(28, "No space left on device")

        write_atomically(path, fail)

    monkeypatch.setattr("mrcnn_plugin.inference.outputs.write_atomically", full)
    with pytest.raises(RunError, match=r"a/00001\.png could not be written \(No space left"):
        run(model_file, photos, "--out", tmp_path / "out")
    assert files_below(tmp_path / "out") == []


class FakePredictor:
    """One square per image, as quick as reading the image."""

    class_names = ["square"]

    def __init__(self, *_, **__):
        pass

    def __call__(self, images):
        return [self._square(image.shape[:2]) for image in images]

    @staticmethod
    def _square(size):
        mask = np.zeros(size, np.uint8, order="F")
        mask[:2, :2] = 1
        instances = Instances(size)
        instances.pred_boxes = Boxes(torch.tensor([[0.0, 0, 2, 2]]))
        instances.scores = torch.tensor([0.75])
        instances.pred_classes = torch.tensor([0])
        instances.pred_masks = RLEMasks([mask_utils.encode(mask)], size)
        return instances


def fork(arguments, disturb=lambda: None):
    """`mrcnn predict` with the fake predictor in a forked process; returns its pid."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        predict.Predictor = FakePredictor
        disturb()
        status = one_sentence("mrcnn predict", predict.main, [str(a) for a in arguments])
    except SystemExit as end:
        status = end.code
    finally:
        os._exit(status or 0)


def finish(pid):
    """The exit status, or minus the signal that killed the process."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def small_images(folder, count):
    """PNGs of 4x4 pixels; every thousandth is damaged."""
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "image.png")
    content = (folder / "image.png").read_bytes()
    (folder / "image.png").unlink()
    for index in range(count):
        (folder / f"{index:05}.png").write_bytes(content if index % 1000 else content[:20])


def test_sixteen_shards_of_10000_images_killed_ten_times_have_each_result_once(tmp_path):
    small_images(tmp_path / "images", 10_000)
    rng = random.Random(0)
    num_killed = num_runs = 0
    todo = [f"{k}/16" for k in range(1, 17)]
    while todo or num_killed < 10:
        shard = todo[0] if todo else f"{rng.randint(1, 16)}/16"
        if not todo:
            Shard.parse(shard).path(tmp_path / "out").unlink()
        delay = rng.uniform(0.005, 0.25) if num_killed < 10 else None
        pid = fork(["m.pth", tmp_path / "images", "--out", tmp_path / "out", "--shard", shard])
        if delay:
            time.sleep(delay)
            os.kill(pid, signal.SIGKILL)
        status = finish(pid)
        num_runs += 1
        if status == -signal.SIGKILL:
            num_killed += 1
        else:
            assert status == (1 if any_damaged(shard, tmp_path / "images") else 0)
            todo = todo[1:]
        assert num_runs < 100
    assert num_killed == 10
    lines = list(read_shards(tmp_path / "out"))
    assert sorted(line["image"] for line in lines) == [f"{i:05}.png" for i in range(10_000)]
    damaged = [line["image"] for line in lines if "error" in line]
    assert sorted(damaged) == [f"{i:05}.png" for i in range(0, 10_000, 1000)]
    assert all(len(line["annotations"]) == 1 for line in lines if "error" not in line)
    assert len(files_below(tmp_path / "out")) == 16  # what killed processes left is deleted


def any_damaged(shard, folder):
    names = [f"{i:05}.png" for i in range(0, 10_000, 1000)]
    return bool(Shard.parse(shard).select(names))


def test_finished_shards_are_skipped_and_checked(model_file, photos, tmp_path, capsys):
    out = tmp_path / "out"
    shards = [Shard(k, 3) for k in (1, 2, 3)]
    for shard in shards:
        assert run(model_file, photos, "--out", out, "--shard", f"{shard.number}/3") == 0
    assert sorted(line["image"] for line in read_shards(out)) == NAMES
    assert files_below(out) == [f"predictions-000{k}-of-0003.jsonl.gz" for k in (1, 2, 3)]
    line = next(line for line in read_shards(out) if line["annotations"])
    annotation = line["annotations"][0]
    assert annotation["class"] in ("apple", "cup", "pen") and "id" not in annotation
    assert annotation["segmentation"]["size"] == [line["height"], line["width"]]
    before = [shard.path(out).stat().st_mtime_ns for shard in shards]
    capsys.readouterr()
    for shard in shards:
        assert run(model_file, photos, "--out", out, "--shard", f"{shard.number}/3") == 0
    assert before == [shard.path(out).stat().st_mtime_ns for shard in shards]
    assert capsys.readouterr().out.count("is finished and has not been computed again") == 3

    for k in range(30):  # each shard should have had some of these
        os.link(photos / "b/00001.png", photos / f"b/new{k}.png")
    with pytest.raises(RunError, match=r"of-0003\.jsonl\.gz is finished but lacks \d+ of \d+ im"):
        run(model_file, photos, "--out", out, "--shard", "1/3")
    shards[1].path(out).unlink()
    with pytest.raises(RunError, match=r"lacks 1 shards, such as predictions-0002-of-0003"):
        list(read_shards(out))


def test_a_damaged_shard_is_named(tmp_path):
    path = Shard(1, 1).path(tmp_path)
    write_shard(path, ({"image": f"{i}.png"} for i in range(1000)))
    check_finished(path, [f"{i}.png" for i in range(1000)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match=r"jsonl\.gz is damaged .* Delete it"):
        list(read_shards(tmp_path))


def test_a_shard_that_two_processes_write_at_once_is_whole(tmp_path):
    """The slower one begins first and ends last."""
    path = Shard(1, 1).path(tmp_path)
    lines = [{"image": f"{i}.png"} for i in range(100)]

    def slower():
        yield lines[0]
        write_shard(path, lines)
        yield from lines[1:]

    write_shard(path, slower())
    assert list(read_shards(tmp_path)) == lines
    assert files_below(tmp_path) == [path.name]


def test_nothing_remains_of_a_shard_that_fails(tmp_path):
    def failing():
        yield {"image": "1.png"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(Shard(1, 1).path(tmp_path), failing())
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("kinds", [["--csv", "--coco", "--masks"], ["--shard", "1/1"]])
def test_ctrl_c_leaves_whole_files_and_status_130(kinds, tmp_path):
    small_images(tmp_path / "images", 300)
    cv2.imwrite(str(tmp_path / "images/99999.png"), np.zeros((4, 4, 3), np.uint8))

    def stop_at_the_end():
        """Ctrl-C while the 290th image is predicted."""
        original, calls = FakePredictor.__call__, []

        def stopped(self, images):
            calls.append(1)
            if len(calls) == 290:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(5)
            return original(self, images)

        FakePredictor.__call__ = stopped

    class Model:
        MASK_ON = True

    class Config:
        MODEL = Model

    FakePredictor.cfg = Config
    arguments = ["m.pth", tmp_path / "images", "--out", tmp_path / "out", *kinds]
    arguments += [] if "--shard" in kinds else ["--no-overlays"]
    assert finish(fork(arguments, stop_at_the_end)) == 130
    found = files_below(tmp_path / "out")
    if "--shard" in kinds:
        assert found == []
    else:  # the first file is damaged, the 290th is not finished
        assert found == [f"masks/{k:05}.png" for k in range(1, 289)]
        for name in found:
            assert cv2.imread(str(tmp_path / "out" / name), cv2.IMREAD_UNCHANGED).max() == 1


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """A hundred images more have 50,000 rows more, which would take 50 MB as Python objects."""

    def many(self, images):
        return [Instances.cat([self._square(i.shape[:2])] * 500) for i in images]

    def disturb():
        FakePredictor.__call__ = many

    peaks = []
    for count in (20, 120):
        folder = tmp_path / str(count)
        small_images(folder, count)
        arguments = ["m.pth", folder, "--out", tmp_path / f"out{count}", "--csv", "--coco"]
        _, status, usage = os.wait4(fork([*arguments, "--no-overlays"], disturb), 0)
        assert os.waitstatus_to_exitcode(status) == 1
        peaks.append(usage.ru_maxrss / 1024)  # megabytes
    assert len(rows_of(tmp_path / "out120/predictions.csv")) == 119 * 500
    assert peaks[1] - peaks[0] < 20


def test_no_progress_bar_without_a_terminal(model_file, photos, tmp_path, capsys):
    run(model_file, photos, "--out", tmp_path / "out", "--csv", "--no-overlays")
    assert capsys.readouterr().err == ""


def test_large_images_in_tiles(model_file, tmp_path):
    image = np.random.randint(0, 256, (150, 400, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "large.png"), image)
    arguments = (tmp_path / "large.png", "--csv", "--no-overlays", "--batch-size", 2)
    assert run(model_file, *arguments, "--out", tmp_path / "one") == 0
    tiles = ("--tile", 150, "--overlap", 40)
    assert run(model_file, *arguments, *tiles, "--out", tmp_path / "tiles") == 0
    rows = [rows_of(tmp_path / name / "predictions.csv") for name in ("one", "tiles")]
    assert rows[1] and rows[0] != rows[1]


def test_lines_of_a_shard_are_json(model_file, photos, tmp_path):
    assert run(model_file, photos, "--out", tmp_path, "--shard", "1/1") == 0
    with gzip.open(tmp_path / "predictions-0001-of-0001.jsonl.gz", "rt") as file:
        lines = [json.loads(line) for line in file]
    assert [line["image"] for line in lines] == NAMES
