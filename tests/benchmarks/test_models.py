"""benchmarks/train_step.py and inference.py print their tables, and both sides compute the same."""

import re

import pytest
from builders import run_python

QUICK = ("--quick", "--no-fpn", "--threads", 1)
ROW = r"^\| (?:detectron2|ours|ours bfloat16) \| [\d.]+ \|"


@pytest.mark.slow
def test_training_step():
    done = run_python("benchmarks/train_step.py", *QUICK)
    assert done.returncode == 0, done.stderr
    rows = re.findall(rf"{ROW}.+ \| (\d+) \([\d.]+x\) \|$", done.stdout, re.M)
    assert len(rows) == 3 and all(300 < int(megabytes) < 5000 for megabytes in rows)
    losses = []
    for variant in ("detectron2", "ours"):
        line = re.search(rf"^{variant}: (loss_cls .+)$", done.stdout, re.M)[1]
        losses.append([float(n) for n in re.findall(r"[\d.]+(?:e-\d+)?", line)])
    assert len(losses[0]) == 5 and losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.slow
def test_stages():
    done = run_python("benchmarks/train_step.py", *QUICK, "--stages")
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| res5 \| (\d+) \| \d+ \| \d+ \| \d+% \|$", done.stdout, re.M)
    # 8 RoIs of 7x7, stride 1: 14.94 M weights, 2 FLOPs each, forward and two products backward.
    assert [int(gflop) for gflop in rows] == [round(8 * 49 * 14.94e6 * 2 * 3 / 1e9)] * 2


@pytest.mark.slow
def test_prediction():
    done = run_python("benchmarks/inference.py", *QUICK, "--no-memory")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(ROW, done.stdout, re.M)) == 2 * 3  # to masks and to a json
    found = re.findall(r"^ours: (\d+) detections.+ up to (\S+)$", done.stdout, re.M)
    assert len(found) == 2
    for detections, difference in found:
        assert int(detections) > 50 and float(difference) < 1e-4
