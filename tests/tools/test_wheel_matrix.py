"""tools/wheel_matrix.py: which pairs of versions are run, what is kept, and the table."""

import importlib.util
import sys

import pytest
from builders import ROOT


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("wheel_matrix", ROOT / "tools/wheel_matrix.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def matrix(script, monkeypatch, tmp_path):
    """`matrix(wheel's content)` runs torch 2.10 and 2.14 with Python 3.10 and 3.14."""
    script.ran = []
    script.cells = {
        "2.10 3.10": {"text": "344 passed", "failed": False, "cuda": "12.8"},
        "2.10 3.14": {"text": "no such Python here"},
        "2.14 3.10": {"text": "343 passed, 1 failed", "failed": True, "cuda": "13.0"},
        "2.14 3.14": {"text": "no such Python here"},
    }

    def run_cell(uv, wheel, torch, python, cache):
        script.ran.append(f"{torch} {python}")
        return script.cells[f"{torch} {python}"]

    monkeypatch.setattr(script, "run_cell", run_cell)

    def run(content="a wheel"):
        script.ran.clear()
        (tmp_path / "a.whl").write_text(content)
        options = ("--torch", "2.10", "2.14", "--python", "3.10", "3.14", "--uv", sys.executable)
        paths = ("--wheel", tmp_path / "a.whl", "--results", tmp_path / "results.json")
        return script.main([*options, *map(str, paths)])

    return run


def test_the_table_has_torch_in_rows_and_python_in_columns(matrix, capsys):
    assert matrix() == 1
    assert capsys.readouterr().out == (
        "| torch | CUDA of torch | Python 3.10 | Python 3.14 |\n"
        "|---|---|---|---|\n"
        "| 2.10 | 12.8 | 344 passed | no such Python here |\n"
        "| 2.14 | 13.0 | 343 passed, 1 failed | no such Python here |\n"
    )


def test_what_has_not_failed_is_run_once_per_wheel(script, matrix):
    matrix()
    assert script.ran == ["2.10 3.10", "2.10 3.14", "2.14 3.10", "2.14 3.14"]
    script.cells["2.14 3.10"] = {"text": "344 passed", "failed": False, "cuda": "13.0"}
    assert matrix() == 0 and script.ran == ["2.14 3.10"]
    assert matrix() == 0 and script.ran == []
    assert matrix("another wheel") == 0 and len(script.ran) == 4


def test_without_a_wheel_the_error_names_the_command(script, tmp_path):
    with pytest.raises(SystemExit, match="Run `make wheel`, or pass --wheel"):
        script.main(["--wheel", str(tmp_path / "none.whl")])


def test_interpreters_are_found_by_version(script):
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    found = script.find_python(version)
    shown = script.run(found, "-c", "import sys; print(*sys.version_info[:2], sep='.')").stdout
    assert shown.strip() == version
    assert script.find_python("2.99") is None


def test_the_copied_tests_do_not_import_the_checkout(script, tmp_path):
    """Those that need more than torch, torchvision, numpy and pytest would fail in every cell."""
    script.copy_tests(tmp_path)
    texts = [path.read_text() for path in (tmp_path / "tests").glob("*.py")]
    assert len(texts) == 6 and not any("detectron2" in text for text in texts)
