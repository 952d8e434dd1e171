"""Runs every command and every Python program of docs/predict.md, in order, on small images."""

import csv
import os
import re
import sys

import cv2
import numpy as np
import pytest
from builders import ROOT, tiny_model_file
from documented_commands import run_program

from mrcnn_plugin.data import make_shapes

DOCS = ROOT / "docs/predict.md"
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", DOCS.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A directory with the files that the page names, and `mrcnn` and `labelme` to call."""
    root = tmp_path_factory.mktemp("predict_docs")
    make_shapes(root / "photos/shapes.json", 5, seed=1)
    (root / "photos/shapes.json").unlink()
    (root / "list.txt").write_text("photos/00001.png\nphotos/00002.png\n")
    cv2.imwrite(str(root / "large.png"), np.random.randint(0, 256, (800, 1800, 3), np.uint8))
    (root / "output/my").mkdir(parents=True)
    tiny_model_file(root / "output/my/model_best.pth", score_thresholds=[0.1, 0.1, 0.1])
    for name, line in (("mrcnn", f'"{sys.executable}" -m mrcnn_plugin'), ("labelme", "test -d")):
        script = root / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        script.chmod(0o755)
    return root


def run(command, workplace):
    path = f"{workplace}/bin:{os.environ['PATH']}"
    slurm = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16"}
    done = run_program(command, workplace, PATH=path, **slurm)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.mark.slow
def test_the_page(workplace):
    printed = ""
    for language, code in BLOCKS:
        if language == "bash":
            of_commands = run(["bash", "-euo", "pipefail", "-c", code], workplace)
            assert "meshgrid" not in of_commands
            printed += of_commands
        elif "import ray" not in code:
            (workplace / "program.py").write_text(code)
            printed += run([sys.executable, "program.py"], workplace)
    # Of the process pool; warnings of its processes can come in between.
    assert re.findall(r"^(\d) images$", printed, re.MULTILINE) == ["3", "2"]
    assert len(list((workplace / "output/predicted/overlays").iterdir())) == 5
    with open(workplace / "output/measured/predictions.csv", newline="") as file:
        assert "area_mm2" in next(csv.DictReader(file))
    assert len(list((workplace / "output/shards").iterdir())) == 4
    array = [path.name for path in (workplace / "output/array").iterdir()]
    assert array == ["predictions-0003-of-0016.jsonl.gz"]
    assert printed.count("0 error, 0 dropped, 0 warning, 0 repaired") == 3
    assert "backbone    ResNet-18" in printed and "MIN_SIZE_TEST: 96" in printed


def test_the_program_for_ray(workplace):
    pytest.importorskip("ray", reason="pip install 'ray[data]' to run this test")
    (code,) = [code for _, code in BLOCKS if "import ray" in code]
    (workplace / "ray_program.py").write_text(code)
    run([sys.executable, "ray_program.py"], workplace)
    files = list((workplace / "output/ray").iterdir())
    assert sum(len(path.read_text().splitlines()) for path in files) == 5


def test_the_page_shows_every_command():
    """A command without a fence would not be run."""
    text = DOCS.read_text()
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert sum(code.count("mrcnn ") for kind, code in BLOCKS if kind == "bash") >= 11
    assert not re.search(r"^\s*(python|mrcnn) ", outside, flags=re.MULTILINE)
