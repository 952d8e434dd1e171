"""`mrcnn export` leaves a file only if it has the detections of the model."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from builders import tiny_model_file

from mrcnn_plugin.cli.export import main
from mrcnn_plugin.errors import RunError
from mrcnn_plugin.export import formats
from mrcnn_plugin.export.formats import FORMATS

THRESHOLDS = [0.3, 0.4, 0.35]


def export(tmp_path, *options):
    model = tiny_model_file(tmp_path / "model.pth", score_thresholds=THRESHOLDS)
    main([str(model), "--format", "pt2", "--out", str(tmp_path / "out/model.pt2"), *options])


def test_pt2(tmp_path, capsys):
    """The file names classes, thresholds and preprocessing; --check prints every image."""
    export(tmp_path, "--check")
    *checked, written = capsys.readouterr().out.splitlines()
    assert len(checked) == 6 and all("instances of" in line for line in checked)
    assert written.endswith("equal to the model in 6 images")
    extra = {"mrcnn_plugin.json": ""}
    torch.export.load(tmp_path / "out/model.pt2", extra_files=extra)
    about = json.loads(extra["mrcnn_plugin.json"])
    assert about["class_names"] == ["apple", "cup", "pen"]
    assert about["score_thresholds"] == pytest.approx(THRESHOLDS)
    assert about["preprocessing"]["shortest_side"] == 96
    assert about["preprocessing"]["channels"] == "BGR"
    assert about["version"]


def test_a_file_that_differs_is_not_left(tmp_path, monkeypatch):
    """A writer that moves every box by a pixel, in place of one with a fault."""
    export_program = formats.export_program

    def wrong(graph):
        apply_deltas = graph.model.roi_heads.box_predictor.box2box_transform.apply_deltas
        with monkeypatch.context() as patch:
            patch.setattr(
                graph.model.roi_heads.box_predictor.box2box_transform,
                "apply_deltas",
                lambda *args: apply_deltas(*args) + 1,
            )
            return export_program(graph)

    monkeypatch.setattr(formats, "export_program", wrong)
    with pytest.raises(RunError, match=r"has not been written, .* differ .* in 6 of 6 images"):
        export(tmp_path, "--check")
    assert not list((tmp_path / "out").iterdir())


def test_a_check_without_detections_fails(tmp_path):
    with pytest.raises(RunError, match="finds nothing in the 6 images of the check"):
        export(tmp_path, "--check", "--threshold", "1")
    assert not (tmp_path / "out").exists()


def test_images_and_thresholds_of_the_command(tmp_path, real_images):
    """More images than sizes: all are used."""
    paths = sorted(map(str, (real_images / "fruits_nuts/images").glob("*.jpg")))[:6]
    export(tmp_path, "--threshold", "0.2", "--check", *paths)
    with pytest.raises(RunError, match=r"missing\.jpg, an image of --check, cannot be read"):
        export(tmp_path, "--check", "missing.jpg")


@pytest.mark.parametrize("format, suffix", [("pt2", ".pt2"), ("onnx", ".onnx")])
def test_places_that_cannot_be_written(format, suffix, tmp_path, monkeypatch):
    """A file in place of a folder, a folder in place of the file, a full disk: one sentence."""
    content = FORMATS[format]._replace(content=lambda graph, about: b"content")
    monkeypatch.setitem(FORMATS, format, content)
    model = tiny_model_file(tmp_path / "model.pth")
    (taken := tmp_path / f"folder{suffix}").mkdir()
    for path, reason in [(model / f"a{suffix}", "File exists"), (taken, "Is a directory")]:
        with pytest.raises(RunError, match=rf"could not be written \({reason}\)\. Free space"):
            main([str(model), "--format", format, "--out", str(path)])

    def full(path, content):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match="No space left"):
        main([str(model), "--format", format, "--out", str(tmp_path / f"a{suffix}")])
    assert sorted(p.name for p in tmp_path.iterdir()) == [taken.name, "model.pth"]


def test_a_killed_export_leaves_nothing(tmp_path, monkeypatch):
    """SIGTERM while the written file is compared."""
    model = tiny_model_file(tmp_path / "model.pth", score_thresholds=THRESHOLDS)

    def kill(path):
        assert path.read_bytes() == b"content"
        os.kill(os.getpid(), signal.SIGTERM)

    changed = FORMATS["pt2"]._replace(content=lambda graph, about: b"content", runtimes=kill)
    monkeypatch.setitem(FORMATS, "pt2", changed)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt):
            main([str(model), "--format", "pt2", "--out", str(tmp_path / "a.pt2"), "--check"])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pth"]


def test_names_of_another_format(tmp_path):
    model = tiny_model_file(tmp_path / "model.pth")
    with pytest.raises(RunError, match=r"expected a name that ends in \.pt2"):
        main([str(model), "--format", "pt2", "--out", str(tmp_path / "model.onnx")])
