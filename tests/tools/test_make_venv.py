"""`make setup` names what a machine lacks, and repeats only the steps that changed."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders import ROOT


@pytest.fixture
def setup_script(tmp_path, monkeypatch):
    """tools/make_venv.py as a module, with its environment in a temporary directory."""
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "tools/make_venv.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VENV", tmp_path)
    monkeypatch.setattr(module, "PYTHON", tmp_path / "bin/python")
    return module


def sentence_of(call):
    with pytest.raises(SystemExit) as stopped:
        call()
    sentence = str(stopped.value)
    assert sentence.startswith("setup: ") and "\n" not in sentence
    return sentence


def test_this_machine_is_fine(setup_script):
    setup_script.check_machine()


@pytest.mark.parametrize("version", [(3, 9), (3, 14)])
def test_unsupported_python(setup_script, monkeypatch, version):
    fake = SimpleNamespace(version_info=(*version, 0), exit=sys.exit)
    monkeypatch.setattr(setup_script, "sys", fake)
    sentence = sentence_of(setup_script.check_machine)
    assert f"Python {version[0]}.{version[1]}" in sentence and "3.10 to 3.13" in sentence


def test_no_compiler(setup_script, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(setup_script.shutil, "which", lambda name: None)
    assert "apt-get install g++" in sentence_of(setup_script.check_machine)


def test_no_room_on_the_disk(setup_script, monkeypatch):
    usage = SimpleNamespace(free=1e9)
    monkeypatch.setattr(setup_script.shutil, "disk_usage", lambda path: usage)
    assert re.search(
        r"1.0 GB are free here, \d+ GB are needed", sentence_of(setup_script.check_machine)
    )


def test_no_venv_module(setup_script, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        setup_script.importlib.util,
        "find_spec",
        lambda name: None if name == "ensurepip" else find(name),
    )
    assert "python3-venv" in sentence_of(setup_script.check_machine)


@pytest.fixture
def installs(setup_script, monkeypatch, tmp_path):
    """`installs(DETECTRON2)` runs the step of `make setup`; returns the arguments of each pip."""
    monkeypatch.setattr(setup_script, "site_packages", lambda: tmp_path)
    called = []

    def pip(what, *arguments):
        """Notes the arguments, with the content of a requirements file in place of its path."""
        file = Path(arguments[-1])
        content = [file.read_text()] if file.is_file() else [arguments[-1]]
        called.append([*arguments[:-1], *content])

    monkeypatch.setattr(setup_script, "pip", pip)

    def install(detectron2=None):
        called.clear()
        monkeypatch.delenv("DETECTRON2", raising=False)
        if detectron2 is not None:
            monkeypatch.setenv("DETECTRON2", str(detectron2))
        checkout = setup_script.detectron2_checkout()
        setup_script.once("detectron2", checkout, lambda: setup_script.install_detectron2(checkout))
        return list(called)

    return install


def test_detectron2_must_be_a_checkout(installs, tmp_path):
    assert "is not a detectron2 checkout" in sentence_of(lambda: installs(tmp_path))


def test_a_chosen_checkout_is_kept_until_another_choice(installs, tmp_path):
    """A plain `make setup`, which `make test` runs, must not install the PyPI copy next to it."""
    (tmp_path / "checkout/detectron2").mkdir(parents=True)
    (tmp_path / "checkout/detectron2/__init__.py").touch()
    alias = tmp_path / "detectron2_pypi.pth"

    (copy,) = installs()
    assert copy[-1].startswith("labgym==3.1.2") and "--require-hashes" in copy and alias.exists()
    (official,) = installs(tmp_path / "checkout")
    assert official[-1] == str(tmp_path / "checkout") and not alias.exists()
    assert installs() == [] and not alias.exists()
    removed, copy = installs("")
    assert removed[0] == "uninstall" and copy[-1].startswith("labgym==3.1.2") and alias.exists()
    assert installs() == []


def test_a_step_runs_once_per_fingerprint_and_again_after_a_failure(setup_script):
    ran = []
    setup_script.once("step", "a", lambda: ran.append("a"))
    setup_script.once("step", "a", lambda: ran.append("again"))
    setup_script.once("step", "b", lambda: ran.append("b"))
    with pytest.raises(ZeroDivisionError):
        setup_script.once("step", "c", lambda: 1 / 0)
    setup_script.once("step", "c", lambda: ran.append("c"))
    assert ran == ["a", "b", "c"]


def test_a_failing_command_shows_the_end_of_its_output(setup_script, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(setup_script, "LOG", setup_script.ROOT / ".setup_test.log")
    try:
        command = (sys.executable, "-c", "print('the reason'); raise SystemExit(3)")
        sentence = sentence_of(lambda: setup_script.run("doing it", *command))
    finally:
        (setup_script.ROOT / ".setup_test.log").unlink()
    assert "'doing it' failed" in sentence and "the reason" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make: apt-get install make")
def test_make_without_python_is_one_sentence():
    done = subprocess.run(
        ["make", "-s", "setup", "PYTHON=no_such_python"], cwd=ROOT, text=True, capture_output=True
    )
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith("setup: there is no 'no_such_python'")


# ---- requirements.lock ---------------------------------------------------------------------------

LOCK = (ROOT / "requirements.lock").read_text()


def test_only_locked_files_are_installed(setup_script, monkeypatch):
    called = []
    monkeypatch.setattr(setup_script, "pip", lambda what, *a: called.append((a, read(a[-1]))))
    read = lambda path: Path(path).read_text()  # noqa: E731
    setup_script.install_requirements(setup_script.locked(lambda name: name != "labgym"))
    (_, build), (arguments, everything) = called
    assert re.findall(r"^(\S+)==", build, re.MULTILINE) == ["setuptools", "wheel"]
    assert {"install", "--require-hashes", "--no-deps", "--no-build-isolation"} <= {*arguments}
    assert re.search("^torch==2", everything, re.MULTILINE) and "labgym" not in everything
    entries = re.findall(r"^\w.*?(?=^\w|\Z)", everything, re.MULTILINE | re.DOTALL)
    assert len(entries) > 80 and all("--hash=sha256:" in entry for entry in entries)


def test_the_lock_file_has_every_requirement_and_names_no_server():
    wanted = re.findall(r"^([\w-]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    missing = {name.lower() for name in wanted} - {*re.findall("^([\\w-]+)==", LOCK, re.MULTILINE)}
    assert len(wanted) > 30 and not missing, "run `make lock`"
    assert "://" not in LOCK
    assert set(re.findall(r"(?:^|\s)(--[\w-]+)", re.sub("#.*", "", LOCK))) == {"--hash"}


def test_the_lock_file_satisfies_the_requirements():
    from packaging.requirements import Requirement

    pinned = re.findall("^([\\w-]+)==(\\S+)", LOCK, re.MULTILINE)
    text = re.sub("#.*", "", (ROOT / "requirements.txt").read_text())
    for line in filter(str.strip, text.splitlines()):
        requirement = Requirement(line)
        versions = [version for name, version in pinned if name == requirement.name.lower()]
        is_met = [version in requirement.specifier for version in versions]
        assert (any if requirement.marker else all)(is_met), "run `make lock`"
