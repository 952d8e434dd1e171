"""Runs the tests of another project after a pytest plugin has changed something."""

import os
import subprocess
import sys
from pathlib import Path

from builders import ROOT


def outcomes(folder, checkout, files, plugin, *options):
    """Outcome of each test: {"test_file.py::Class::test": "PASSED", ...}. Also prints the counts.

    Args:
        folder: an empty directory, in which the tests run.
        checkout: path of the checkout.
        files: its test files, relative to `checkout`.
        plugin: Python source that runs before the tests are collected.
        options: more options of pytest.
    """
    (folder / "plugin.py").write_text(plugin)
    arguments = ["-p", "plugin", "-n", "0", "-p", "no:cacheprovider", "-v", "-W", "ignore"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, "--rootdir", checkout, *options]
        + [Path(checkout, file) for file in files],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"},
        text=True,
        capture_output=True,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: tests failed
    print(done.stdout.splitlines()[-1])
    lines = [line.split() for line in done.stdout.splitlines() if "::" in line and "%]" in line]
    return {words[0].rpartition("/")[2]: words[1] for words in lines}
