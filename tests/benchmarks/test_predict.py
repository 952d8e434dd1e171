"""benchmarks/predict.py prints its table, and our masks need less memory than detectron2's."""

import re

from builders import run_python


def test_it_runs_on_a_small_image():
    done = run_python("benchmarks/predict.py", 40, 600, 800, "--repeats", 2)
    assert done.returncode == 0, done.stderr
    assert "| 40 discs in tiles of 1024: 40 come back |" in done.stdout
    assert re.search(r"^0 of \d{5,} pixels of the masks differ", done.stdout, re.MULTILINE)
    peaks = [int(n) for n in re.findall(r"\| (\d+) \| \d", done.stdout)]
    assert len(peaks) == 2 and peaks[1] < peaks[0]
