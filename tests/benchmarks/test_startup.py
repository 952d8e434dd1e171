"""benchmarks/startup.py prints its tables, and `mrcnn --help` does not import torch."""

import re
import sys

import pytest
from builders import run_python


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc: run it on Linux")
def test_it_runs_on_a_small_dataset():
    done = run_python("benchmarks/startup.py", "--quick", "--images", 20, "--annotations", 100)
    assert done.returncode == 0, done.stderr
    seconds = dict(re.findall(r"^\| `(.+)` \| ([\d.]+) \|", done.stdout, re.M))
    assert float(seconds["mrcnn --help"]) < 0.3 + float(seconds["python -c pass"])
    assert len(re.findall(r"^\| (?:detectron2|ours.*?) \| [\d.]+ \|", done.stdout, re.M)) == 3
