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
    env = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "CUDA_VISIBLE_DEVICES": "",
        "CONFIG": "tiny.yaml",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", prelude + commands],
        cwd=workplace,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
        check=False,
    )
    return done.returncode, done.stdout
