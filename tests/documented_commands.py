"""Runs the commands of a documentation page. Nothing here is an expected value."""

import os
import re
import subprocess
import sys

from builders import ROOT


def bash_blocks(text):
    return re.findall(r"^```bash\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def run_commands(workplace, commands):
    """Run bash commands with this Python as `python` and this package as `mrcnn`.

    Returns the exit status and what they printed.
    """
    prelude = f"""
    python() {{ "{sys.executable}" "$@"; }}
    mrcnn() {{ python -m mrcnn_plugin "$@"; }}
    """
    command = ["bash", "-euo", "pipefail", "-c", prelude + commands]
    done = run_program(command, workplace, CONFIG="tiny.yaml")
    return done.returncode, done.stdout


def run_program(command, folder, **environment):
    """Run a command in a folder, on the CPU, with this package; returns the finished process.

    stdout and stderr are together in `stdout`. `environment` is added to that of this process.
    """
    path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=900,
        check=False,
    )
