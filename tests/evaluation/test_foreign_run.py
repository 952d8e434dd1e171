"""The report of a run that somebody else has written: nothing outside of it is read or written."""

import json
import os
import re
import shutil
import tracemalloc
from pathlib import Path

import pytest
from builders import evaluate, forget, load_cfg, perfect_predictions
from coco_files import coco_content, save_image, write_dataset
from detectron2.data import DatasetCatalog, MetadataCatalog

from mrcnn_plugin.cli.report import main
from mrcnn_plugin.data import register_datasets
from mrcnn_plugin.errors import RunError, one_sentence

SIZE = {"width": 80, "height": 60}


@pytest.fixture
def run(tmp_path):
    """The folder of an evaluated run with a dataset on files, as if it had been received."""
    folder, images = tmp_path / "run", tmp_path / "images"
    json_file = write_dataset(images, coco_content(**SIZE), size=tuple(SIZE.values()))
    (folder / "datasets").mkdir(parents=True)
    shutil.copy(json_file, folder / "datasets/my.json")
    opts = ("DATASETS.FILES", (f"my={json_file}:{images}",), "DATASETS.TEST", ("my",))
    cfg = load_cfg("mask_rcnn_shapes_C4.yaml", *opts, "OUTPUT_DIR", str(folder))
    register_datasets(cfg)
    (folder / "inference").mkdir()
    evaluate("my", perfect_predictions("my"), folder / "inference")
    (folder / "config.yaml").write_text(cfg.dump())
    lines = [{"iteration": i, "total_loss": 1.0, "segm/AP": 50.0} for i in range(3)]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    yield folder
    if "my" not in DatasetCatalog:
        MetadataCatalog.remove("my")
    else:
        forget("my")


def images_in(page: Path) -> int:
    return len(re.findall(r'src="data:image/jpeg', page.read_text()))


def failure(*arguments) -> str:
    with pytest.raises(RunError) as error:
        main([str(argument) for argument in arguments])
    assert "\n" not in str(error.value)
    return str(error.value)


def change(file: Path, function) -> None:
    content = json.loads(file.read_text())
    function(content)
    file.write_text(json.dumps(content))


def test_the_run_itself(run, tmp_path):
    main([str(run), "--image", str(tmp_path / "run.png")])
    assert images_in(run / "report.html") == 6 and (tmp_path / "run.png").exists()


@pytest.mark.parametrize(
    "name", ["metrics.json", "run.json", "inference/analysis.json", "datasets"]
)
def test_a_link_out_of_the_run_is_not_read(run, tmp_path, name):
    outside = tmp_path / "secret"
    if (run / name).exists():
        (run / name).rename(outside)
    else:
        outside.write_text('{"command": "secret"}')
    (run / name).symlink_to(outside)
    assert f"{run / name} is a link that leads out of {run}" in failure(run)
    assert not (run / "report.html").exists()


def test_a_link_out_of_the_run_is_not_written(run, tmp_path):
    (tmp_path / "precious").write_text("precious")
    (run / "report.html").symlink_to(tmp_path / "precious")
    assert "report.html is a link that leads out" in failure(run)
    (run / "report.html").unlink()
    (run / "report.html").symlink_to(tmp_path / "new")
    assert "report.html is a link that leads out" in failure(run)
    assert (tmp_path / "precious").read_text() == "precious" and not (tmp_path / "new").exists()


def test_a_run_behind_a_link_is_read(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    (run / "metrics.json").rename(run / "other.json")
    (run / "metrics.json").symlink_to("other.json")
    main([str(tmp_path / "link")])
    assert images_in(run / "report.html") == 6


def test_a_pipe_does_not_hang(run):
    (run / "metrics.json").unlink()
    os.mkfifo(run / "metrics.json")
    assert "metrics.json is neither a file nor a folder" in failure(run)


@pytest.mark.parametrize("name", ["../images", "/etc", "a/../../../b"])
def test_a_dataset_name_is_no_path(run, name):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub(r"TEST:\n  - my", f"TEST:\n  - {name}", text))
    assert f"'{name}' is not the name of a dataset" in failure(run)


def test_a_base_of_the_config_is_not_read(run):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text("_BASE_: other.yaml\n" + text)
    assert "config.yaml has a _BASE_, which is not followed here" in failure(run)


@pytest.mark.parametrize("kind", ["absolute", "relative", "pipe", "directory"])
def test_an_image_outside_its_folder_is_not_drawn(run, tmp_path, capsys, kind):
    save_image(tmp_path / "private/photo.png", *SIZE.values())
    os.mkfifo(tmp_path / "images/pipe")
    name = {
        "absolute": str(tmp_path / "private/photo.png"),
        "relative": "../private/photo.png",
        "pipe": "pipe",
        "directory": ".",
    }[kind]

    def point_outside(content):
        content["images"][0]["file_name"] = name

    change(run / "datasets/my.json", point_outside)
    main([str(run)])
    assert images_in(run / "report.html") == 4
    assert "is not drawn: it is no file in the image folder of my" in capsys.readouterr().out
    assert "is no file in the image folder" in failure(run, "--image", tmp_path / "run.png")


def test_an_image_of_another_size_is_not_drawn(run, tmp_path, capsys):
    save_image(tmp_path / "images/1.png", 30, 30)
    main([str(run)])
    assert images_in(run / "report.html") == 4 and "1.png is not drawn" in capsys.readouterr().out


@pytest.mark.parametrize(
    "image, segmentation, problem",
    [
        ({"width": 10**9, "height": 10**9}, None, "has the size (1000000000, 1000000000)"),
        ({"width": True}, None, "has the size"),
        ({}, {"size": [60, 80], "counts": [10]}, "cover 10 pixels, expected 4800"),
        ({}, {"size": [10**5, 10**5], "counts": [10**10]}, "RLE has (height, width)"),
        ({}, {"size": [60, 80], "counts": "01"}, "cover 1 pixels, expected 4800"),
        ({}, [[0, 0, 1e9, 0, 1e9, 1e9]], "outside"),  # pycocotools would crash
    ],
)
def test_a_damaged_dataset_is_not_used(run, capsys, image, segmentation, problem):
    def damage(content):
        content["images"][0].update(image)
        if segmentation:
            content["annotations"][0]["segmentation"] = segmentation

    change(run / "datasets/my.json", damage)
    main([str(run)])
    printed = capsys.readouterr().out
    assert "Dataset 'my' is not available" in printed and problem in printed
    assert images_in(run / "report.html") == 0


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [10**5, 10**5], "counts": "0"},
        {"size": [60, 80], "counts": [4799]},
        {"size": [60, 80], "counts": "01"},  # pycocotools leaves the other pixels uninitialised
        None,
    ],
)
def test_a_predicted_mask_of_another_size_is_not_decoded(run, rle):
    def damage(results):
        results[0]["segmentation"] = rle

    change(run / "inference/coco_instances_results.json", damage)
    tracemalloc.start()
    assert "coco_instances_results.json" in failure(run)
    assert tracemalloc.get_traced_memory()[1] < 2**28
    tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "null",
        "{}",
        '{"images": [[1, 2]], "ap": {"../": 3}, "classes": ["x"], "main_task": 7}',
        '{"images": 5}',
    ],
)
def test_a_damaged_analysis_is_one_sentence(run, capsys, content):
    (run / "inference/analysis.json").write_text(content)
    assert one_sentence("mrcnn report", main, [str(run)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("mrcnn report: A file of ")


@pytest.mark.parametrize("content", ["[]", '{"versions": 3}', "{", "[" * 100_000])
def test_a_damaged_run_json_is_one_sentence(run, content):
    (run / "run.json").write_text(content)
    assert "run.json is damaged" in failure(run)


def test_numbers_that_are_none_are_skipped(run):
    lines = [
        '{"iteration": 3, "total_loss": 1e999, "loss_cls": NaN}',
        '{"iteration": 4, "total_loss": "<script>", "lr": [1]}',
        '{"iteration": 1e400, "total_loss": 1}',
        '{"iteration": [1], "total_loss": 1}',
        '{"iteration": 5, "total_loss": 1' + "0" * 4000 + "}",
        '{"iteration": 6, "total_loss": 1' + "0" * 5000 + "}",
        "[" * 100_000,
        '{"iteration": 7, "total_loss": 1e308}',
    ]
    with open(run / "metrics.json", "a") as file:
        file.write("\n" + "\n".join(lines))
    main([str(run)])
    assert "<script>" not in (run / "report.html").read_text()


def test_names_are_text(run):
    def rename(content):
        content["categories"][0]["name"] = "<script>alert(1)</script> $\\frac{"

    change(run / "datasets/my.json", rename)
    (run / "inference/analysis.json").unlink()
    main([str(run)])
    assert "<script" not in (run / "report.html").read_text()
