"""Importing the package: registration, public names, errors for missing packages, dependencies."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from builders import CONFIGS, ROOT
from detectron2.modeling import BACKBONE_REGISTRY, PROPOSAL_GENERATOR_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import ROI_MASK_HEAD_REGISTRY

import mrcnn_plugin
import mrcnn_plugin.data
from mrcnn_plugin import config_file, get_config_file
from mrcnn_plugin.errors import RunError

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


PUBLIC = {
    "MRCNNRPN",
    "MRCNNCascadeROIHeads",
    "MRCNNMaskFCNHead",
    "MRCNNRPNHead",
    "MRCNNRes5ROIHeads",
    "MRCNNStandardROIHeads",
    "MultiScaleRoIAlign",
    "Predictor",
    "RoIAlign",
    "RoIAlignPooler",
    "__version__",
    "accelerate_torchvision",
    "add_mrcnn_config",
    "batched_nms",
    "build_mrcnn_resnet_c4_backbone",
    "fold_frozen_bn",
    "get_config_file",
    "multiscale_roi_align",
    "nms",
    "res5_stage",
    "resnet_c4",
    "roi_align",
    "use_roi_align",
}


def test_public_names():
    assert set(mrcnn_plugin.__all__) == PUBLIC
    assert all(hasattr(mrcnn_plugin, name) for name in PUBLIC)


def test_nothing_but_public_names_and_submodules_is_visible():
    """Asked of a new process: a test may have imported any submodule."""
    done = python(
        "import mrcnn_plugin, types, json;"
        "print(json.dumps({n: isinstance(v, types.ModuleType) and v.__name__"
        "                  for n, v in vars(mrcnn_plugin).items() if not n.startswith('_')}))"
    )
    assert done.returncode == 0, done.stderr
    for name, module in json.loads(done.stdout).items():
        assert name in PUBLIC or module == f"mrcnn_plugin.{name}", name


def test_a_submodule_is_not_shadowed_by_a_function_of_its_name():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    ]
    assert "mrcnn_plugin.layers.roi_align" in names and len(names) > 40
    for name in names:
        module = importlib.import_module(name)
        parent, _, own = name.rpartition(".")
        assert getattr(sys.modules[parent], own) is module, name


def test_the_version_is_that_of_the_distribution():
    declared = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert not declared or declared[1] == mrcnn_plugin.__version__


# Runs `import mrcnn_plugin` where `missing` is not installed.
HIDE = """
import importlib.abc, importlib.util, sys
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Hide())
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in {missing!r} else find(name, *a)
import mrcnn_plugin
"""


def without(missing, code):
    return python(HIDE.format(missing=missing) + code)


def test_without_torch_the_import_is_an_error_with_the_fix():
    done = without(["torch"], "")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last == (
        "ImportError: mrcnn_plugin needs torch, which is not installed: "
        "pip install torch torchvision"
    )


@pytest.mark.parametrize("missing", ["detectron2", "torchvision", "detectron2 torchvision"])
def test_with_torch_only_the_ops_work(missing):
    done = without(
        missing.split(),
        "import torch\n"
        "x, rois = torch.ones(1, 2, 8, 8), torch.tensor([[0., 1, 1, 5, 5]])\n"
        "one = torch.ones(1, 2, 3, 3)\n"
        "assert torch.equal(mrcnn_plugin.roi_align(x, rois, 3), one)\n"
        "assert torch.equal(mrcnn_plugin.RoIAlign(3)(x, rois), one)\n"
        "assert torch.equal(mrcnn_plugin.multiscale_roi_align([x, x], rois, 3, [1, 1/2]), one)\n"
        "assert torch.equal(mrcnn_plugin.MultiScaleRoIAlign(3, [1, 1/2])([x, x], rois), one)\n"
        "import mrcnn_plugin.layers.onnx\n"
        "assert mrcnn_plugin.get_config_file('mask_rcnn_R101_C4.yaml').endswith('R101_C4.yaml')\n"
        "assert mrcnn_plugin.__version__\n"
        "assert not {'detectron2', 'torchvision', 'cv2'} & set(sys.modules)\n",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("missing", ["detectron2", "torchvision"])
@pytest.mark.parametrize(
    "use",
    [
        "mrcnn_plugin.MRCNNRes5ROIHeads",
        "from mrcnn_plugin import MRCNNRPN",
        "mrcnn_plugin.use_roi_align",
        "from mrcnn_plugin import add_mrcnn_config",
    ],
)
def test_what_needs_detectron2_is_an_import_error_with_the_fix_on_first_use(use, missing):
    done = without([missing], use)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith(f"ImportError: mrcnn_plugin needs {missing}, which is not installed: ")
    assert "install" in last.split("not installed: ")[1]


def test_an_unknown_name_is_an_attribute_error_with_and_without_detectron2():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        mrcnn_plugin.nonsense  # noqa: B018
    done = without(["detectron2"], "mrcnn_plugin.nonsense")
    assert "AttributeError: module 'mrcnn_plugin' has no attribute 'nonsense'" in done.stderr


def test_get_config_file_prefers_the_installed_files(tmp_path, monkeypatch):
    monkeypatch.setattr(config_file, "_PACKAGE", package := tmp_path / "mrcnn_plugin")
    checkout, installed = tmp_path / "configs", package / "configs"
    for folder in (checkout, installed):
        (folder / "quick_schedules").mkdir(parents=True)
        (folder / "quick_schedules/a.yaml").touch()
    assert get_config_file("quick_schedules/a.yaml") == str(installed / "quick_schedules/a.yaml")
    shutil.rmtree(installed)
    assert get_config_file("quick_schedules/a.yaml") == str(checkout / "quick_schedules/a.yaml")


def test_get_config_file_suggests_near_names():
    assert get_config_file("lazy/mask_rcnn_R50_C4.py") == str(CONFIGS / "lazy/mask_rcnn_R50_C4.py")
    with pytest.raises(RunError) as error:
        get_config_file("mask_rcnn_R_101_C4.yaml")
    assert str(error.value).startswith(
        "mrcnn_plugin has no config file 'mask_rcnn_R_101_C4.yaml'. Did you mean "
        "mask_rcnn_R101_C4.yaml"
    )
    with pytest.raises(RunError, match=r"Expected one of Base-MRCNN-C4.yaml, "):
        get_config_file("zzz")


def test_a_missing_library_is_one_import_error_with_the_fix(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "mrcnn_plugin", ignore=shutil.ignore_patterns("*.so"))
    done = python("import mrcnn_plugin", cwd=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ImportError: ")
    assert "pip install --no-build-isolation" in last


# ---- Which folder may import what ----------------------------------------------------------------


def python_files(folder):
    files = sorted((PACKAGE / folder).rglob("*.py"))
    assert files, folder
    return files


def imports_of(path):
    """Absolute names of the modules that a file imports, "mrcnn_plugin.data.check" for relatives.

    `from a import b` counts as a.b, as b may be a module.
    """
    package = [*path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_below(module, *allowed):
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


# Folder, or file, of the package -> what it may import in addition to the standard library.
MAY_IMPORT = {
    "layers": ("torch", "onnxscript", "mrcnn_plugin.layers"),
    "modeling": (
        *("torch", "torchvision", "detectron2"),
        *("mrcnn_plugin.layers", "mrcnn_plugin.modeling"),
        *("mrcnn_plugin.config", "mrcnn_plugin.errors"),
    ),
    "modeling/losses.py": ("torch",),
    "config.py": ("detectron2", "mrcnn_plugin.errors"),
    "config_file.py": ("mrcnn_plugin.errors",),
    "errors.py": (),
}


@pytest.mark.parametrize("place", MAY_IMPORT)
def test_a_folder_imports_only_what_it_may(place):
    files = [PACKAGE / place] if place.endswith(".py") else python_files(place)
    for path in files:
        for module in imports_of(path):
            if module.split(".")[0] not in sys.stdlib_module_names:
                assert is_below(module, *MAY_IMPORT[place]), f"{path} imports {module}"


def test_layers_import_no_other_folder_at_run_time():
    done = without(
        ["detectron2", "torchvision", "numpy"],
        "own = {n for n in sys.modules if n.startswith('mrcnn_plugin.')}\n"
        "assert all(n.startswith(('mrcnn_plugin.layers', 'mrcnn_plugin.config_file',"
        "                         'mrcnn_plugin.errors')) for n in own), own\n",
    )
    assert done.returncode == 0, done.stderr


def test_evaluation_uses_only_the_public_names_of_data():
    """It may import them from the module that defines them."""
    public = mrcnn_plugin.data.__all__
    for path in python_files("evaluation"):
        for name in imports_of(path):
            if is_below(name, "mrcnn_plugin.data"):
                assert name.rpartition(".")[2] in public, f"{path} imports {name}"


def test_the_workbench_depends_on_the_model_and_not_the_other_way_round():
    for folder in ("layers", "modeling", "checkpoint"):
        for path in python_files(folder):
            for module in imports_of(path):
                workbench = ("data", "engine", "evaluation", "cli")
                assert not is_below(module, *(f"mrcnn_plugin.{name}" for name in workbench)), path


def test_the_package_imports_nothing_that_stands_above_it():
    above = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"mrcnn_plugin"}
    above |= {path.stem for path in (ROOT / "projects").glob("*/*") if path.is_dir()}
    above |= {"LabGym", "train_net", "builders", "oracles", "conftest"}
    assert {"projects", "tools", "benchmarks", "tests", "paper_ablations"} <= above
    for path in python_files("."):
        for module in imports_of(path):
            assert module.split(".")[0] not in above, f"{path} imports {module}"


def test_cfg_is_read_only_in_from_config_in_modeling():
    """Constructors take explicit arguments. Builders of detectron2's registries get the config."""
    may_read = re.compile(r"from_config|build_\w+|\w+_from_config|_?check_\w+")
    for path in python_files("modeling"):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef) or may_read.fullmatch(function.name):
                continue
            names = {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
            names |= {n.attr for n in ast.walk(function) if isinstance(n, ast.Attribute)}
            names |= {
                argument.arg for argument in ast.walk(function.args) if hasattr(argument, "arg")
            }
            assert "cfg" not in names, f"{path}: {function.name}"


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
