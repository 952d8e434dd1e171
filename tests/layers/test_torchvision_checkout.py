"""torchvision's own tests of RoIAlign and NMS, without and with `accelerate_torchvision`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import ROOT

CHECKOUT = os.environ.get("TORCHVISION_CHECKOUT")
PLUGIN = "import mrcnn_plugin, torchvision\nmrcnn_plugin.accelerate_torchvision()\n"


def results(folder, *options):
    """The last word per test: PASSED, FAILED, ..."""
    selected = "TestRoIAlign or TestMultiScaleRoIAlign or TestNMS"
    arguments = ["-n", "0", "-p", "no:cacheprovider", "-v", "-W", "ignore", "--rootdir", CHECKOUT]
    tests = Path(CHECKOUT, "test", "test_ops.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *arguments, tests, "-k", selected],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"},
        text=True,
        capture_output=True,
    )
    print(done.stdout.splitlines()[-1])
    lines = [line.split() for line in done.stdout.splitlines() if "::" in line]
    return {words[0].rpartition("/")[2]: words[1] for words in lines if len(words) > 1}


@pytest.mark.slow
@pytest.mark.skipif(CHECKOUT is None, reason="set TORCHVISION_CHECKOUT to the path of a checkout")
def test_they_pass_with_our_kernels(tmp_path):
    (tmp_path / "accelerated.py").write_text(PLUGIN)
    theirs, ours = results(tmp_path), results(tmp_path, "-p", "accelerated")
    assert list(theirs.values()).count("PASSED") > 30
    assert ours == theirs
