"""benchmarks/run_all.py runs every script of a folder and fails if one of them does."""

import pytest
from builders import ROOT, run_python

MAIN = 'if __name__ == "__main__":\n    '


def run_all(folder):
    return run_python(
        "-c",
        "import pathlib, sys, run_all\n"
        "sys.argv = ['run_all.py', '--quick']\n"
        f"sys.exit(run_all.main(pathlib.Path({str(folder)!r})))",
        PYTHONPATH=f"{ROOT}:{ROOT / 'benchmarks'}",
    )


def test_output_headings_and_failures(tmp_path):
    (tmp_path / "a_fails.py").write_text(f"{MAIN}raise SystemExit(3)")
    (tmp_path / "b_prints.py").write_text(f"import sys\n{MAIN}print('| row |', *sys.argv[1:])")
    (tmp_path / "models.py").write_text("raise SystemExit('not a script')")
    done = run_all(tmp_path)
    assert done.returncode == 1
    assert "## benchmarks/b_prints.py --quick\n\n| row | --quick\n" in done.stdout
    assert "failed with exit status 3" in done.stdout and "models" not in done.stdout
    assert "1 benchmarks failed: a_fails.py --quick" in done.stderr
    (tmp_path / "a_fails.py").unlink()
    assert run_all(tmp_path).returncode == 0


@pytest.mark.slow
def test_every_script_accepts_its_quick_arguments():
    """--help after them: the arguments are parsed, and nothing is measured."""
    done = run_python(
        "-c",
        "import run_all, subprocess, sys\n"
        "for script in run_all.scripts():\n"
        "    for arguments in run_all.QUICK.get(script.stem, [('--quick',)]):\n"
        "        help = subprocess.run([sys.executable, script, *arguments, '--help'],\n"
        "            capture_output=True, text=True)\n"
        "        assert help.returncode == 0, help.stderr\n"
        "        assert all(a in help.stdout for a in arguments if a.startswith('--')), script\n"
        "        print(script.stem)\n",
        PYTHONPATH=f"{ROOT}:{ROOT / 'benchmarks'}",
    )
    assert done.returncode == 0, done.stderr
    assert {"train_step", "inference", "roi_align", "nms", "predict"} <= {*done.stdout.split()}
