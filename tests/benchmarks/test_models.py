"""benchmarks/train_step.py and inference.py print their tables, and both sides compute the same."""

import re

import pytest
from builders import run_python

SMALL = ("--depth", 50, "--repeats", 1, "--no-fpn", "--no-memory", "--threads", 1)


@pytest.mark.slow
@pytest.mark.parametrize("script, more", [("train_step", ("--rois", 8)), ("inference", ())])
def test_it_runs_and_both_sides_agree(script, more):
    done = run_python(f"benchmarks/{script}.py", *SMALL, *more)
    assert done.returncode == 0, done.stderr
    assert (
        len(re.findall(r"^\| (?:detectron2|ours|ours bfloat16) \| [\d.]+ \|", done.stdout, re.M))
        == 3
    )
    if script == "train_step":
        theirs, ours = (
            re.search(rf"^{v}: (loss_cls .+)$", done.stdout, re.M)[1]
            for v in ("detectron2", "ours")
        )
        numbers = [
            [float(n) for n in re.findall(r"[\d.]+(?:e-\d+)?", line)] for line in (theirs, ours)
        ]
        assert len(numbers[0]) == 5 and numbers[1] == pytest.approx(numbers[0], rel=1e-3)
    else:
        (difference,) = re.findall(r"^ours: 100 detections.+ up to (\S+)$", done.stdout, re.M)
        assert float(difference) < 1e-4
