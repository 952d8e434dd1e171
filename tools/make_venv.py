#!/usr/bin/env python3
"""`make setup`: .venv with torch, detectron2 and the compiled op. Run again, it does what changed.

Environment: DETECTRON2=path of an official detectron2 checkout (default: the copy on PyPI),
FORCE_CUDA=1 or 0 (default: CUDA kernels when nvcc is there and torch has CUDA).
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin/python"
LOG = VENV / "setup.log"
GIGABYTES_NEEDED = 8  # 5 for the environment, the rest while pip unpacks


def fail(sentence):
    sys.exit(f"setup: {sentence}")


def check_machine():
    """Stop with one sentence when something is missing that the set-up cannot bring."""
    version = sys.version_info[:2]
    if not (3, 10) <= version <= (3, 13):
        fail(
            f"this is Python {version[0]}.{version[1]}, torch 2.11 with detectron2 needs 3.10 to "
            "3.13: run `make setup PYTHON=python3.12`, say"
        )
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        fail("this Python cannot make virtual environments: apt-get install python3-venv")
    if not (os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")):
        fail("there is no C++ compiler to build RoIAlign with: apt-get install g++")
    if not (Path(_include_dir()) / "Python.h").exists():
        fail(
            "Python.h is missing, which pip compiles dependencies with: apt-get install python3-dev"
        )
    free = shutil.disk_usage(ROOT).free / 1e9
    if not PYTHON.exists() and free < GIGABYTES_NEEDED:
        fail(f"{free:.1f} GB are free here, {GIGABYTES_NEEDED} GB are needed for the environment")


def _include_dir():
    import sysconfig

    return sysconfig.get_paths()["include"]


def run(what, *command, env=None):
    """Run a long step: its output goes to setup.log, its last line and the time to the screen."""
    started = time.time()
    print(f"setup: {what} ...", flush=True)
    with open(LOG, "ab") as log:
        log.write(f"\n$ {' '.join(map(str, command))}\n".encode())
        log.flush()
        process = subprocess.Popen(
            [str(c) for c in command], cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT
        )
        done = threading.Event()
        ticker = threading.Thread(target=_tick, args=(done, started), daemon=True)
        ticker.start()
        code = process.wait()
        done.set()
        ticker.join()
    if code != 0:
        print("".join(LOG.read_text(errors="replace").splitlines(keepends=True)[-25:]))
        fail(f"'{what}' failed (above: the end of {LOG.relative_to(ROOT)})")
    print(f"setup: {what}: done in {time.time() - started:.0f} s", flush=True)


def _tick(done, started):
    while not done.wait(10):
        lines = LOG.read_text(errors="replace").strip().splitlines()
        last = lines[-1].strip()[:90] if lines else ""
        print(f"  {time.time() - started:4.0f} s  {last}", flush=True)


def digest(*paths, extra=""):
    """A fingerprint of files (and words) that a step depends on."""
    fingerprint = hashlib.sha256(extra.encode())
    for path in sorted(paths):
        fingerprint.update(path.read_bytes())
    return fingerprint.hexdigest()


def once(name, fingerprint, step):
    """Run `step` unless it has run to its end with the same fingerprint."""
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
    run(what, PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *arguments)


def site_packages():
    return next((VENV / "lib").glob("python3.*/site-packages"))


def install_detectron2():
    """The checkout that DETECTRON2 names, else the PyPI copy with its alias."""
    checkout = os.environ.get("DETECTRON2")
    alias = site_packages() / "detectron2_pypi.pth"
    alias.unlink(missing_ok=True)
    if checkout:
        if not Path(checkout, "detectron2/__init__.py").exists():
            fail(f"DETECTRON2={checkout} is not a detectron2 checkout (no detectron2/__init__.py)")
        pip(
            f"installing detectron2 from {checkout} (compiles its C++; 10 to 20 minutes)",
            "--no-build-isolation",
            "--no-deps",
            checkout,
        )
        return
    pip(
        "installing detectron2 (the copy in LabGym 3.1.2 on PyPI)",
        "--no-deps",
        "--ignore-requires-python",
        "LabGym==3.1.2",
    )
    alias.write_text(f"{ROOT / 'tools/detectron2_pypi'}\n")


def install_plugin():
    pip(
        "compiling RoIAlign and installing mrcnn_plugin",
        "--no-build-isolation",
        "--no-deps",
        "--editable",
        ".",
    )


def main():
    check_machine()
    make_venv()
    requirements = ROOT / "requirements.txt"
    once(
        "requirements",
        digest(requirements),
        lambda: pip(
            "installing torch 2.11 and the dependencies (5 GB on disk; a minute or many)",
            "-r",
            requirements,
        ),
    )
    once(
        "detectron2",
        digest(requirements, extra=os.environ.get("DETECTRON2", "")),
        install_detectron2,
    )
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
