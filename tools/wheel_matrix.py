#!/usr/bin/env python3
"""Runs the tests of RoIAlign with one wheel under several versions of torch and Python.

    make wheel-matrix                                        every version
    make wheel-matrix MATRIX="--torch 2.14.1 --python 3.12"  some of them

Each environment is made with uv, holds torch, torchvision, pytest and the wheel, and is deleted
afterwards. One torch needs about 6 GB of disk and a pair of versions some minutes. Results are kept
in --results, and pairs that are in it are not run again: an interrupted matrix goes on. The table
is printed as Markdown. The exit status is 1 if a test has failed.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCH = ("2.10.0", "2.11.0", "2.13.0", "2.14.1")
PYTHON = ("3.10", "3.11", "3.12", "3.13", "3.14")
# Tests that need torch and torchvision, but not detectron2.
TESTS = ("test_roi_align.py", "test_roi_align_errors.py", "test_roi_align_torch.py")
SHOW_VERSION = "import torch, mrcnn_plugin; print(torch.version.cuda, *torch.ops.loaded_libraries)"


def find_python(version):
    """The path of an interpreter of `version`, or None. Looks at the PATH and at pyenv's folder."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which(f"python{version}"), *pyenv.glob(f"versions/{version}.*/bin/python")]
    for path in filter(None, candidates):
        # An inactive shim of pyenv is on the PATH but does not run.
        if subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return str(path)
    return None


def copy_tests(folder):
    """Lay out the tests as in a checkout, but without the package: the wheel must be imported."""
    tests = folder / "tests"
    tests.mkdir()
    for name in ("oracles.py", "roi_align_cases.py", *(f"layers/{name}" for name in TESTS)):
        shutil.copy(ROOT / "tests" / name, tests)
    (tests / "builders.py").write_text(f"from pathlib import Path\nROOT = Path({str(folder)!r})\n")
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs/roi_align.md", folder / "docs")
    markers = "slow: slow tests\n    gpu: tests that need a GPU"
    (folder / "pytest.ini").write_text(f"[pytest]\nmarkers =\n    {markers}\n")


def run(*command, **kwargs):
    return subprocess.run(
        [str(word) for word in command],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **kwargs,
    )


def run_cell(uv, wheel, torch, python, cache):
    """Install the wheel next to `torch`, run the tests and return a cell of the table."""
    interpreter = find_python(python)
    if interpreter is None:
        return {"text": "no such Python here"}
    with tempfile.TemporaryDirectory(prefix=f"matrix-{torch}-{python}-") as name:
        folder = Path(name)
        environment = {**os.environ, "UV_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
        environment = {k: v for k, v in environment.items() if k != "PYTHONPATH"}
        run(uv, "venv", "-q", "--python", interpreter, folder / "venv", env=environment)
        own = folder / "venv/bin/python"
        pip = (uv, "pip", "install", "-q", "--python", own, "--only-binary", ":all:")
        wanted = (f"torch=={torch}", "torchvision", "pytest", "numpy", "setuptools")
        for arguments in (wanted, ("--no-deps", wheel)):
            done = run(*pip, *arguments, env=environment)
            if done.returncode != 0:
                print(done.stdout[-2000:], file=sys.stderr)
                return {"text": "does not install here"}
        copy_tests(folder)
        return run_tests(own, folder, environment)


def run_tests(python, folder, environment):
    shown = run(python, "-c", SHOW_VERSION, cwd=folder, env=environment)
    if shown.returncode != 0:
        print(shown.stdout[-2000:], file=sys.stderr)
        return {"text": "FAILED: does not load", "failed": True}
    cuda, *libraries = shown.stdout.splitlines()[-1].split()
    options = ("-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu", "tests")
    done = run(python, "-m", "pytest", *options, cwd=folder, env=environment)
    if done.returncode != 0:
        print(done.stdout[-4000:], file=sys.stderr)
    counts = re.findall(r"\d+ (?:passed|failed|error)", done.stdout.splitlines()[-1])
    text = ", ".join(counts)
    loaded = " + CUDA" if any("_C_cuda" in Path(name).name for name in libraries) else ""
    return {"text": f"{text}{loaded}", "failed": done.returncode != 0, "cuda": cuda}


def hash_of(wheel):
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def load_results(file, wheel):
    """The cells that were run with this very wheel."""
    results = json.loads(file.read_text()) if file.exists() else {}
    return results["cells"] if results.get("wheel") == hash_of(wheel) else {}


def save_results(file, wheel, cells):
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"wheel": hash_of(wheel), "cells": cells}))


def print_table(cells, torches, pythons):
    print("| torch | CUDA of torch | " + " | ".join(f"Python {p}" for p in pythons) + " |")
    print("|---" * (len(pythons) + 2) + "|")
    for torch in torches:
        row = [cells[f"{torch} {python}"] for python in pythons]
        cuda = next((cell["cuda"] for cell in row if "cuda" in cell), "?")
        print(f"| {torch} | {cuda} | " + " | ".join(cell["text"] for cell in row) + " |")


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="default: the wheel in dist/")
    parser.add_argument("--torch", nargs="+", default=TORCH)
    parser.add_argument("--python", nargs="+", default=PYTHON)
    parser.add_argument("--results", type=Path, default=ROOT / "build/wheel_matrix.json")
    parser.add_argument("--cache", help="a folder for packages; default: one per torch, deleted")
    parser.add_argument("--uv", default="uv", help="the program uv (pip install uv)")
    return parser.parse_args(arguments)


def check(options):
    """Return the wheel to test, or end the program if something is missing."""
    wheels = [options.wheel] if options.wheel else [*ROOT.glob("dist/*.whl")]
    if len(wheels) != 1 or not wheels[0].is_file():
        sys.exit(
            "wheel-matrix: dist/ does not contain one wheel. Run `make wheel`, or pass --wheel"
        )
    if not shutil.which(options.uv):
        sys.exit(f"wheel-matrix: {options.uv!r} is not installed. pip install uv, or pass --uv")
    return wheels[0].resolve()


def main(arguments=None):
    options = parse(arguments)
    wheel = check(options)
    cells = load_results(options.results, wheel)
    for torch in options.torch:
        with tempfile.TemporaryDirectory(prefix="matrix-cache-") as cache:
            for python in options.python:
                pair = f"{torch} {python}"
                if pair not in cells or cells[pair].get("failed"):
                    cells[pair] = run_cell(options.uv, wheel, torch, python, options.cache or cache)
                    save_results(options.results, wheel, cells)
                text = cells[pair]["text"]
                print(f"torch {torch}, Python {python}: {text}", file=sys.stderr, flush=True)
    print_table(cells, options.torch, options.python)
    pairs = [f"{torch} {python}" for torch in options.torch for python in options.python]
    return int(any(cells[pair].get("failed") for pair in pairs))


if __name__ == "__main__":
    sys.exit(main())
