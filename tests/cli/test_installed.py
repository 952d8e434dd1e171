"""The wheel: what it declares and contains, and `mrcnn` in an environment without the checkout."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from builders import CONFIGS, ROOT

from mrcnn_plugin.data import make_shapes

DISTRIBUTIONS = {"cv2": "opencv-python", "PIL": "Pillow", "yaml": "PyYAML"}


def imported_packages():
    for file in (ROOT / "mrcnn_plugin").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield node.module.split(".")[0]


def test_what_is_imported_is_declared():
    text = (ROOT / "pyproject.toml").read_text()
    project = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    declared = {re.split("[>=]", name)[0] for name in re.findall(r'"([^"]+)"', project)}
    packages = {*imported_packages()} - {*sys.stdlib_module_names, "mrcnn_plugin", "detectron2"}
    packages -= {"mrcnn_command"}  # of the same wheel
    assert {"torch", "cv2", "PIL"} <= packages
    assert {DISTRIBUTIONS.get(name, name) for name in packages} <= declared


def run(*command, **kwargs):
    done = subprocess.run(
        [str(part) for part in command],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **kwargs,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A new environment with the wheel; it shares torch and the like, but not this checkout."""
    folder = tmp_path_factory.mktemp("installed")
    skipped = shutil.ignore_patterns(".venv", ".git", "build", "*.so", "output", "datasets")
    shutil.copytree(ROOT, folder / "source", ignore=skipped)
    offline = {**os.environ, "FORCE_CUDA": "0", "PIP_NO_INDEX": "1", "PYTHONPATH": ""}
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    build = ("wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder / "source")
    run(*pip, *build, env=offline)
    (wheel,) = folder.glob("*.whl")

    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv/bin/python"
    run(*pip, "--python", python, "install", "--no-deps", wheel, env=offline)
    # A .pth of these directories is not followed, so the editable install there stays hidden.
    shared = [sysconfig.get_paths()["purelib"]]
    shared += [path for path in sys.path if Path(path, "detectron2/__init__.py").exists()]
    (site,) = (folder / "venv/lib").glob("python3*/site-packages")
    (site / "shared.pth").write_text("\n".join(dict.fromkeys(shared)) + "\n")
    return folder / "venv"


@pytest.mark.slow
def test_the_wheel_trains_evaluates_and_reports(environment, tmp_path):
    make_shapes(tmp_path / "datasets/shapes/shapes_train/1500_seed1.json", 4, seed=1)
    make_shapes(tmp_path / "datasets/shapes/shapes_val/100_seed2.json", 2, seed=2)
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    env.pop("DETECTRON2_DATASETS", None)

    def mrcnn(*arguments):
        return run(environment / "bin/mrcnn", *arguments, cwd=tmp_path, env=env)

    code = "import mrcnn_plugin; print(mrcnn_plugin.__file__)"
    file = run(environment / "bin/python", "-c", code, cwd=tmp_path, env=env)
    assert file.startswith(str(environment))

    config = ("--config-file", "mask_rcnn_shapes_C4.yaml")
    opts = ("DATALOADER.NUM_WORKERS", 0, "SOLVER.MAX_ITER", 2, "OUTPUT_DIR", "run")
    assert "Evaluation results for segm" in mrcnn("train", *config, *opts)
    printed = mrcnn("train", "--eval-only", *config, *opts, "MODEL.WEIGHTS", "run/model_final.pth")
    assert "Evaluation results for segm" in printed
    (tmp_path / "run/report.html").unlink()
    assert "report.html" in mrcnn("report", "run")
    assert "shapes_val" in (tmp_path / "run/report.html").read_text()
    assert "mrcnn train" in run(environment / "bin/python", "-m", "mrcnn_plugin", env=env)


@pytest.mark.slow
def test_the_wheel_has_every_config(environment):
    (site,) = environment.glob("lib/python3*/site-packages")
    for file in [*CONFIGS.rglob("*.yaml"), *CONFIGS.rglob("*.py")]:
        installed = site / "mrcnn_plugin/configs" / file.relative_to(CONFIGS)
        assert installed.read_bytes() == file.read_bytes()
