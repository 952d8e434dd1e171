"""What importing the package does: registration, one clear error for what is missing, layering."""

import ast
import os
import shutil
import subprocess
import sys

import pytest
from builders import ROOT
from detectron2.modeling import BACKBONE_REGISTRY, PROPOSAL_GENERATOR_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import ROI_MASK_HEAD_REGISTRY

import mrcnn_plugin

PACKAGE = ROOT / "mrcnn_plugin"


def python(code, cwd=ROOT, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, text=True, capture_output=True, timeout=120, **kwargs
    )


def test_components_are_registered_by_name():
    assert "build_mrcnn_resnet_c4_backbone" in BACKBONE_REGISTRY
    assert "MRCNNRPN" in PROPOSAL_GENERATOR_REGISTRY
    assert "MRCNNRPNHead" in RPN_HEAD_REGISTRY
    assert "MRCNNRes5ROIHeads" in ROI_HEADS_REGISTRY
    assert "MRCNNMaskFCNHead" in ROI_MASK_HEAD_REGISTRY


def test_everything_exported_is_there():
    assert all(hasattr(mrcnn_plugin, name) for name in mrcnn_plugin.__all__)


@pytest.mark.parametrize("missing", ["torch", "torchvision", "detectron2"])
def test_a_missing_package_is_one_import_error_with_the_mend(missing):
    hide = (
        "import importlib.util as u; find = u.find_spec;"
        f"u.find_spec = lambda n, *a: None if n == '{missing}' else find(n, *a);"
        "import mrcnn_plugin"
    )
    done = python(hide)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith(f"ImportError: mrcnn_plugin needs {missing}, which is not installed: ")
    assert "install" in last.split("not installed: ")[1]


def test_a_missing_library_is_one_import_error_with_the_mend(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "mrcnn_plugin", ignore=shutil.ignore_patterns("*.so"))
    done = python("import mrcnn_plugin", cwd=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ImportError: ")
    assert "pip install --no-build-isolation" in last


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "").split(".")[0]


@pytest.mark.parametrize("name", ["modeling/losses.py", "layers/roi_align.py"])
def test_pure_modules_import_torch_and_the_standard_library_alone(name):
    allowed = {"torch", *sys.stdlib_module_names}
    assert set(imports_of(PACKAGE / name)) <= allowed


def test_the_package_imports_nothing_that_stands_above_it():
    for path in PACKAGE.rglob("*.py"):
        assert not {"projects", "tools", "tests", "LabGym"} & set(imports_of(path)), path


def test_cfg_is_read_in_from_config_and_builders_alone():
    """Constructors take explicit arguments; `self.cfg` belongs to detectron2's trainer."""
    for name in ("backbone.py", "rpn.py", "mask_head.py", "roi_heads.py"):
        for function in ast.walk(ast.parse((PACKAGE / "modeling" / name).read_text())):
            if isinstance(function, ast.FunctionDef) and function.name in ("__init__", "forward"):
                names = {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
                assert "cfg" not in names, f"{name}: {function.name}"


def test_each_submodule_of_detectron2_is_loaded_once():
    done = python(
        "import detectron2.modeling.poolers as a, sys, importlib;"
        "b = importlib.import_module(a.__name__);"
        "from detectron2.modeling import poolers as c;"
        "assert a is b is c is sys.modules['detectron2.modeling.poolers'];"
        "assert a.__spec__.name == a.__name__"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_pip_install_into_another_place(tmp_path):
    """`pip install --no-build-isolation .`, then the op runs from there."""
    environment = {**os.environ, "FORCE_CUDA": "0"}
    shutil.copytree(
        ROOT,
        tmp_path / "source",
        ignore=shutil.ignore_patterns(".venv", ".git", "build", "*.so", "output", "datasets"),
    )
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-q"),
            *("--target", str(tmp_path / "site"), str(tmp_path / "source")),
        ],
        check=True,
        env=environment,
    )
    done = python(
        "import sys; sys.path.insert(0, 'site'); import mrcnn_plugin, torch;"
        "assert 'site' in mrcnn_plugin.__file__;"
        "x = torch.ones(1, 2, 8, 8); r = torch.tensor([[0., 1, 1, 5, 5]]);"
        "assert torch.equal(mrcnn_plugin.roi_align(x, r, 3), torch.ones(1, 2, 3, 3))",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
