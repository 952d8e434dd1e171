"""Tests tools/gpu_suite.sh with fake programs: which steps run, and what the report contains."""

import os
import subprocess

import pytest
from builders import ROOT

PYTHON = """#!/usr/bin/env bash
echo "python $*"
[ "$REQUIRE_GPU$FORCE_CUDA" = 11 ] || exit 3
case "$*" in
  *$SLOW*) sleep 30 ;;
  *$FAIL*) exit 7 ;;
esac
"""
SANITIZER = (
    '#!/usr/bin/env bash\necho "sanitizer $*, caching off: $PYTORCH_NO_CUDA_MEMORY_CACHING"\n'
)
ALL = [
    "versions",
    "build",
    "tests",
    "memcheck",
    "initcheck",
    "racecheck",
    "benchmark",
    "train_step",
]


@pytest.fixture
def suite(tmp_path):
    def run(sanitizer=SANITIZER, nvcc=True, **environment):
        programs = {"nvidia-smi": "#!/bin/sh\necho a card, a driver\n", "python": PYTHON}
        if sanitizer:
            programs["compute-sanitizer"] = sanitizer
        if nvcc:
            programs["bin/nvcc"] = "#!/bin/sh\n"
        (tmp_path / "bin").mkdir()
        for name, text in programs.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        report = tmp_path / "made/gpu.txt"
        done = subprocess.run(
            ["bash", ROOT / "tools/gpu_suite.sh", report],
            env={
                **os.environ,
                "PATH": f"{tmp_path}:/usr/bin:/bin",
                "PYTHON": str(tmp_path / "python"),
                "CUDA_HOME": str(tmp_path),
                "FAIL": "nothing",
                "SLOW": "nothing",
                **environment,
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        lines = done.stdout.splitlines()
        return done.returncode, dict(line.split(maxsplit=1) for line in lines), report.read_text()

    return run


def test_all_steps(suite):
    status, steps, report = suite()
    assert status == 0
    assert [*steps] == [*ALL, "written"]
    assert {name: steps[name].split()[0] for name in ALL} == dict.fromkeys(ALL, "passed")
    assert "a card, a driver" in report and "commit: " in report
    assert "setup.py build_ext --inplace" in report
    assert "-m gpu tests" in report and "benchmarks/roi_align.py --device cuda" in report
    checks = [line for line in report.splitlines() if line.startswith("sanitizer ")]
    assert all(line.endswith("caching off: 1") for line in checks[1:])
    assert len(checks) == 4 and "--tool memcheck" in checks[1]  # the first tries whether it runs
    assert "--tool initcheck --kernel-regex kns=mrcnn_plugin" in checks[2]
    assert "--tool racecheck" in checks[3] and "tests/layers/test_nms.py" in checks[3]
    assert report.rstrip().splitlines()[-1].startswith("train_step")


def test_a_failed_step_fails_the_suite_and_the_others_run(suite):
    status, steps, report = suite(FAIL="-m gpu tests")
    assert status == 1
    assert steps["tests"].startswith("FAILED: exit status 7")
    assert steps["benchmark"].startswith("passed")
    assert "FAILED: exit status 7" in report


def test_nothing_runs_without_a_build(suite):
    status, steps, _ = suite(FAIL="build_ext")
    assert status == 1
    assert [*steps] == ["versions", "build", "written"]


def test_without_nvcc_the_kernels_that_are_there_are_tested(suite):
    present = list((ROOT / "mrcnn_plugin").glob("_C_cuda*.so"))
    status, steps, _ = suite(nvcc=False)
    if present:
        assert status == 0 and steps["build"].startswith("skipped: no nvcc, kernels present")
    else:
        assert status == 1 and steps["build"].startswith("FAILED: no nvcc")
        assert "tests" not in steps


def test_a_sanitizer_that_cannot_run_here_is_skipped(suite):
    status, steps, report = suite(sanitizer="#!/bin/sh\necho Device not supported\nexit 1\n")
    assert status == 0 and "Device not supported" in report
    assert steps["memcheck"].startswith("skipped: sanitizer unusable")


def test_a_step_that_hangs_does_not_exceed_the_time_limit(suite):
    status, steps, _ = suite(SLOW="-m gpu tests", SUITE_SECONDS="2")
    assert status == 1
    assert steps["tests"].startswith("FAILED: 124")
    assert steps["benchmark"].startswith("not run: no time left")


@pytest.mark.skipif(
    os.path.exists("/usr/local/cuda/bin/compute-sanitizer"),
    reason="compute-sanitizer is installed: run it on a machine without",
)
def test_without_compute_sanitizer(suite):
    status, steps, _ = suite(sanitizer=None)
    assert status == 0
    assert steps["memcheck"].startswith("skipped") and steps["initcheck"].startswith("skipped")
