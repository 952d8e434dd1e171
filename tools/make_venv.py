#!/usr/bin/env python3
"""`make setup` creates .venv with torch, detectron2 and the compiled op.

Running it again repeats only the steps whose inputs have changed. Every package comes from
requirements.lock, and pip rejects a file whose hash is not there.

Environment: DETECTRON2=path of an official detectron2 checkout, or DETECTRON2= for the copy on PyPI
(default: the choice of the last set-up, at first the copy). FORCE_CUDA=1 or 0 (default: build the
CUDA kernels if there is an nvcc and torch supports CUDA).
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin/python"
LOG = VENV / "setup.log"
LOCK = ROOT / "requirements.lock"
BUILD = {"setuptools", "wheel"}  # what pip builds source distributions with
DETECTRON2_COPY = {"labgym"}
GIGABYTES_NEEDED = 8  # 5 for the environment, the rest while pip unpacks
DETECTRON2_CHOICE = ".detectron2_choice"  # in VENV: the checkout that is installed, or nothing


def fail(sentence):
    sys.exit(f"setup: {sentence}")


def check_machine():
    """Stop with one sentence if the machine lacks something that pip cannot install."""
    version = sys.version_info[:2]
    if not (3, 10) <= version <= (3, 13):
        fail(
            f"this is Python {version[0]}.{version[1]}, but torch 2.11 and detectron2 need 3.10 "
            "to 3.13. Run for example `make setup PYTHON=python3.12`"
        )
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        fail("this Python cannot make virtual environments: apt-get install python3-venv")
    if not (os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")):
        fail("there is no C++ compiler to build RoIAlign with: apt-get install g++")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        fail(
            "Python.h is missing, which pip compiles dependencies with: apt-get install python3-dev"
        )
    free = shutil.disk_usage(ROOT).free / 1e9
    if not PYTHON.exists() and free < GIGABYTES_NEEDED:
        fail(f"{free:.1f} GB are free here, {GIGABYTES_NEEDED} GB are needed for the environment")


def run(what, *command):
    """Run a long step. Its output goes to setup.log, and to the screen only if it fails."""
    started = time.time()
    print(f"setup: {what} ... (output: {LOG.relative_to(ROOT)})", flush=True)
    with open(LOG, "ab") as log:
        log.write(f"\n$ {' '.join(map(str, command))}\n".encode())
        log.flush()
        code = subprocess.run(map(str, command), cwd=ROOT, stdout=log, stderr=log).returncode
    if code != 0:
        print("".join(LOG.read_text(errors="replace").splitlines(keepends=True)[-25:]))
        fail(f"'{what}' failed; the end of {LOG.relative_to(ROOT)} is above")
    print(f"setup: done in {time.time() - started:.0f} s", flush=True)


def digest(*paths, extra=""):
    """A fingerprint of the files and words that a step depends on."""
    fingerprint = hashlib.sha256(extra.encode())
    for path in sorted(paths):
        fingerprint.update(path.read_bytes())
    return fingerprint.hexdigest()


def once(name, fingerprint, step):
    """Run `step` unless it has succeeded before with the same fingerprint."""
    stamp = VENV / f".{name}"
    if stamp.exists() and stamp.read_text() == fingerprint:
        return
    step()
    stamp.write_text(fingerprint)


def make_venv():
    if not PYTHON.exists():
        import venv

        print(f"setup: making .venv with Python {sys.version.split()[0]}", flush=True)
        venv.create(VENV, with_pip=True, clear=VENV.exists())


def pip(what, *arguments):
    run(what, PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments)


def locked(wanted):
    """The entries of requirements.lock, with their hashes, for whose name `wanted` returns true."""
    entries = re.split(r"^(?=\w)", LOCK.read_text(), flags=re.MULTILINE)[1:]
    return "".join(entry for entry in entries if wanted(re.match(r"[\w.-]+", entry)[0]))


def pip_install_locked(what, entries, *options):
    """Install exactly these entries: their dependencies are entries too."""
    file = VENV / "locked.txt"
    file.write_text(entries)
    exact = ("--require-hashes", "--no-deps", "--no-build-isolation")
    pip(what, "install", *exact, *options, "-r", file)


def install_requirements(entries):
    pip_install_locked("installing setuptools", locked(lambda name: name in BUILD))
    what = "installing torch 2.11 and the dependencies (5 GB; can take minutes)"
    pip_install_locked(what, entries)


def site_packages():
    return next((VENV / "lib").glob("python3.*/site-packages"))


def detectron2_checkout():
    """The checkout to install, or "" for the PyPI copy: given now, or chosen at the last set-up."""
    given = os.environ.get("DETECTRON2")
    if given is not None:
        return str(Path(given).resolve()) if given else ""
    choice = VENV / DETECTRON2_CHOICE
    return choice.read_text() if choice.exists() else ""


def install_detectron2(checkout):
    """Install a checkout, or the PyPI copy and its alias."""
    alias = site_packages() / "detectron2_pypi.pth"
    if checkout:
        if not Path(checkout, "detectron2/__init__.py").exists():
            fail(f"DETECTRON2={checkout} is not a detectron2 checkout (no detectron2/__init__.py)")
        what = f"installing detectron2 from {checkout} (compiles its C++; 10 to 20 minutes)"
        alias.unlink(missing_ok=True)
        pip(what, "install", "--no-build-isolation", "--no-deps", checkout)
        (VENV / DETECTRON2_CHOICE).write_text(checkout)
    else:
        if (VENV / DETECTRON2_CHOICE).exists():
            pip("removing the other detectron2", "uninstall", "--yes", "detectron2")
        what = "installing detectron2 (the copy in LabGym on PyPI)"
        entry = locked(lambda name: name in DETECTRON2_COPY)
        pip_install_locked(what, entry, "--ignore-requires-python")
        alias.write_text(f"{ROOT / 'tools/detectron2_pypi'}\n")
        (VENV / DETECTRON2_CHOICE).unlink(missing_ok=True)


def install_plugin():
    pip(
        "compiling RoIAlign and installing mrcnn_plugin",
        "install",
        "--no-build-isolation",
        "--no-deps",
        "--editable",
        ".",
    )


def main():
    check_machine()
    make_venv()
    entries = locked(lambda name: name not in DETECTRON2_COPY)
    once("requirements", digest(extra=entries), lambda: install_requirements(entries))
    checkout = detectron2_checkout()
    once("detectron2", digest(LOCK, extra=checkout), lambda: install_detectron2(checkout))
    sources = [
        *sorted(p for p in (ROOT / "csrc").rglob("*") if p.is_file()),
        ROOT / "setup.py",
        ROOT / "pyproject.toml",
    ]
    switches = f"{os.environ.get('FORCE_CUDA')} {os.environ.get('TORCH_CUDA_ARCH_LIST')}"
    once("plugin", digest(*sources, extra=switches), install_plugin)
    code = (
        "import mrcnn_plugin, torch, detectron2;"
        "print('setup: ready. torch', torch.__version__, 'and detectron2', detectron2.__version__,"
        "'from', detectron2.__path__[0])"
    )
    subprocess.run([str(PYTHON), "-c", code], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
