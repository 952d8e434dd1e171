"""benchmarks/evaluation.py prints its tables, and that all sides agree."""

import re
import sys

import pytest
from builders import run_python


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc: run it on Linux")
def test_it_runs_on_a_few_images():
    sizes = ("--images", 20, "--detections", 500)
    done = run_python("benchmarks/evaluation.py", "--quick", *sizes)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^20 images, \d+ objects, 500 detections\.$", done.stdout, re.M)
    times = re.findall(r"^\| (\w+) \| [\d.]+ \| [\d.]+ \| [\d.]+ \|", done.stdout, re.M)
    assert times[:2] == ["boxes", "masks"]
    assert done.stdout.endswith("bit-identical.\n")
