"""benchmarks/startup.py prints its tables."""

import re
import sys

import pytest
from builders import run_python


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc: run it on Linux")
def test_it_runs_on_a_small_dataset():
    done = run_python("benchmarks/startup.py", "--quick", "--images", 20, "--annotations", 100)
    assert done.returncode == 0, done.stderr
    commands = re.findall(r"^\| `(.+)` \| [\d.]+ \|", done.stdout, re.M)
    assert {"mrcnn --help", "import torch", "import mrcnn_plugin"} <= {*commands}
    assert len(re.findall(r"^\| (?:detectron2|ours.*?) \| [\d.]+ \|", done.stdout, re.M)) == 3
