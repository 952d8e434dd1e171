"""`make wheel`: what the compiled libraries need of glibc and torch, and the tag of the wheel."""

import importlib.util
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from builders import ROOT

LIBRARIES = sorted((ROOT / "mrcnn_plugin").glob("_C*.so"))
# What manylinux_2_28 grants.
NEWEST = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 25), "CXXABI": (1, 3, 11), "GCC": (8,)}


@pytest.fixture
def script():
    """tools/make_wheel.py as a module."""
    spec = importlib.util.spec_from_file_location("make_wheel", ROOT / "tools/make_wheel.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tools(script):
    missing = [tool for tool in script.TOOLS if not shutil.which(tool, path=script.PATH)]
    if missing:
        pytest.skip(f"needs {' '.join(missing)}: make setup")


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def versions_needed(library):
    """Pairs of a symbol and its version, ("memcpy", "GLIBC_2.14"), that a library imports."""
    lines = output_of("objdump", "-T", library).splitlines()
    found = [
        re.search(r"\*UND\*.*\(((?:GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+)\) +(\S+)", x) for x in lines
    ]
    return [(match[2], match[1]) for match in found if match]


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_libraries_load_with_glibc_2_28(library):
    needed = versions_needed(library)
    assert "memcpy" in dict(needed)
    for symbol, version in needed:
        name, _, number = version.partition("_")
        assert tuple(map(int, number.split("."))) <= NEWEST[name], f"{symbol} needs {version}"


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_libraries_use_the_stable_abi_only(script, tools, library):
    script.run("torch-abi-audit", "--check", "torch", library)


def test_a_library_outside_the_stable_abi_is_an_error(script, tools, capsys):
    """torchvision's own library uses the C++ ABI of one torch."""
    import torchvision

    with pytest.raises(SystemExit, match="`torch-abi-audit --check` failed"):
        script.run("torch-abi-audit", "--check", "torch", Path(torchvision.__file__).parent)
    assert "UNSTABLE" in capsys.readouterr().out


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_the_cpu_library_needs_no_cuda(library):
    needed = re.findall(r"NEEDED +(\S+)", output_of("objdump", "-p", library))
    assert "libtorch_cpu.so" in needed
    assert any("cuda" in name for name in needed) == library.name.startswith("_C_cuda")


def test_missing_tools_are_named(script, monkeypatch):
    monkeypatch.setattr(script, "PATH", "/nowhere")
    with pytest.raises(SystemExit, match="auditwheel, patchelf, torch-abi-audit not found"):
        script.check_tools()


@pytest.mark.slow
def test_the_wheel_is_for_manylinux_2_28_and_every_python(script, tools, tmp_path, monkeypatch):
    skipped = shutil.ignore_patterns(".venv", ".git", "build", "dist", "*.so", "output")
    shutil.copytree(ROOT, tmp_path / "source", ignore=skipped)
    monkeypatch.setattr(script, "ROOT", tmp_path / "source")
    monkeypatch.setenv("FORCE_CUDA", "0")
    stale = tmp_path / "source/build/lib.old/mrcnn_plugin/gone.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    (tmp_path / "source/dist").mkdir()
    (tmp_path / "source/dist/mrcnn_plugin-0.0.1-cp310-abi3-linux_x86_64.whl").touch()
    script.main()
    (wheel,) = (tmp_path / "source/dist").iterdir()
    assert wheel.name.endswith(f"-cp310-abi3-{script.PLATFORM}.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert [name for name in names if ".so" in name] == ["mrcnn_plugin/_C.abi3.so"]
    assert not [name for name in names if "gone" in name or ".libs" in name]
