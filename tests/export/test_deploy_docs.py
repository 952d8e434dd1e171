"""Runs every command and every Python program of docs/deploy.md, in order, on a small model."""

import re
import shutil
import sys

import pytest
from builders import ROOT, tiny_model_file
from documented_commands import run_commands, run_program

from mrcnn_plugin import Predictor
from mrcnn_plugin.data import make_shapes

TEXT = (ROOT / "docs/deploy.md").read_text()
USE, LIMITS = TEXT.split("\n## Limits of PyTorch\n")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", USE, re.DOTALL | re.MULTILINE)
PROGRAMS = re.findall(
    r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", LIMITS, re.DOTALL | re.MULTILINE
)
LIMIT_NAMES = ["conv", "sum", "max_pool", "norm", "nms"]
# Optimizing what is run once takes longer than running it.
FASTER = {"AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL": "O0"}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A directory with the files that the page names."""
    root = tmp_path_factory.mktemp("deploy_docs")
    make_shapes(root / "photos/shapes.json", 5, seed=1, size=200)
    (root / "output/my").mkdir(parents=True)
    norm = ("MODEL.RESNETS.NORM", "FrozenBN")
    tiny_model_file(root / "output/my/model_best.pth", *norm, score_thresholds=[0.3, 0.4, 0.35])
    needed = ("mrcnn_plugin/_C.abi3.so", "tools/run_onnx.py", "projects/CppInference/detect.cpp")
    for file in needed:
        shutil.copy(ROOT / file, root)
    return root


def expected_lines(workplace):
    """What `Predictor` finds in the image that the programs of the page read."""
    predictor = Predictor(workplace / "output/my/model_best.pth", device="cpu")
    found = predictor(workplace / "photos/00001.png")
    boxes = found.pred_boxes.tensor.tolist()
    names = [predictor.class_names[i] for i in found.pred_classes]
    return list(zip(names, found.scores.tolist(), boxes))


def assert_same_lines(printed, expected):
    """Lines of a class, a score and a box in brackets."""
    lines = re.findall(r"^(\w+) (0\.\d+) \[(.*)\]$", printed, re.MULTILINE)
    assert len(lines) == len(expected) > 0
    for (name, score, box), (expected_name, expected_score, expected_box) in zip(lines, expected):
        assert name == expected_name
        assert float(score) == pytest.approx(expected_score, abs=2e-3)
        assert [float(x) for x in box.split(",")] == pytest.approx(expected_box, abs=0.11)


@pytest.mark.slow
def test_the_page(workplace, monkeypatch):
    for variable, value in FASTER.items():
        monkeypatch.setenv(variable, value)
    expected = expected_lines(workplace)
    for number, (language, code) in enumerate(BLOCKS):
        if "benchmarks/" in code:  # minutes; benchmarks/run_all.py --quick runs them
            continue
        if language == "python":
            (workplace / f"program{number}.py").write_text(code)
            code = f"python -I program{number}.py"
        status, printed = run_commands(workplace, code)
        assert status == 0, printed[-4000:]
        if "mrcnn export" in code:
            assert "equal to the model in 6 images" in printed
        if "--format pt2" not in code:
            assert_same_lines(printed, expected)
    assert (workplace / "drawn.png").stat().st_size > 0


def test_the_program_in_c_is_short():
    assert len((ROOT / "projects/CppInference/detect.cpp").read_text().splitlines()) <= 100


@pytest.mark.slow
@pytest.mark.parametrize("program, expected", PROGRAMS, ids=LIMIT_NAMES)
def test_limits(program, expected, tmp_path):
    """A limit that is gone needs no workaround any more."""
    (tmp_path / "program.py").write_text(program)
    done = run_program([sys.executable, "-W", "ignore", "program.py"], tmp_path, **FASTER)
    assert done.returncode == 0, done.stdout[-4000:]
    assert done.stdout.endswith(expected), done.stdout[-4000:]
