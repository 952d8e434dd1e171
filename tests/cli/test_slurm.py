"""`mrcnn slurm`: submitit's executor for local processes stands for Slurm."""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders import CONFIGS, ROOT

from mrcnn_plugin.cli import slurm
from mrcnn_plugin.data import make_shapes
from mrcnn_plugin.errors import RunError

needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="needs submitit: pip install submitit"
)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("90", 90),
        ("90:30", 91),
        ("12:00:00", 720),
        ("1-0", 1440),
        ("1-12", 2160),
        ("1-12:30", 2190),
        ("2-00:00:01", 2881),
        ("0:10", 1),
    ],
)
def test_time_limits_of_sbatch(text, expected):
    assert slurm.minutes(text) == expected


@pytest.mark.parametrize("text", ["", "1h", "-5", "1-", "1:2:3:4", "a-1"])
def test_malformed_time_limits(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is no time"):
        slurm.minutes(text)


def test_arguments_of_the_training_are_checked_before_the_job_waits(capsys):
    with pytest.raises(SystemExit):
        slurm.main(["--nodes", "2", "--", "--no-such-option"])
    assert "--no-such-option" in capsys.readouterr().err
    with pytest.raises(RunError, match=r"Pass --nodes and --gpus-per-node before the --"):
        slurm.main(["--", "--num-gpus", "8"])
    with pytest.raises(SystemExit):
        slurm.main(["--nodes", "2"])
    assert "there is no `--`" in capsys.readouterr().err
    assert slurm.train_arguments(["SEED", "1"]) == ["--resume", "SEED", "1"]
    assert slurm.train_arguments(["--resume", "SEED", "1"]) == ["--resume", "SEED", "1"]


def test_what_is_missing_is_named(monkeypatch):
    args = slurm.argument_parser().parse_args([])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"pip install submitit"):
        slurm.make_executor(args)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RunError, match=r"there is no command srun"):
        slurm.make_executor(args)
    args = slurm.argument_parser().parse_args(["--cluster", "local", "--sbatch", "qos"])
    with pytest.raises(RunError, match=r"--sbatch qos has no '='"):
        slurm.make_executor(args)


@needs_submitit
def test_what_is_submitted_to_slurm(tmp_path, monkeypatch):
    """sbatch is a script that keeps what it would submit."""
    for name in ("sbatch", "srun", "sacct", "scontrol"):
        command = tmp_path / name
        command.write_text(
            f'#!/bin/sh\ncp "$1" {tmp_path}/submitted.sh\necho Submitted batch job 123\n'
        )
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    options = "--time 2:00:00 --nodes 2 --gpus-per-node 4 --partition gpu --sbatch qos=high"
    args = slurm.argument_parser().parse_args([*options.split(), "--folder", str(tmp_path / "%j")])
    job = slurm.make_executor(args).submit(slurm.Training(["--resume"]))
    assert job.job_id == "123"
    script = (tmp_path / "submitted.sh").read_text()
    for option in (
        *("time=120", "nodes=2", "gpus-per-node=4", "ntasks-per-node=4", "partition=gpu"),
        *("qos=high", "signal=USR2@300"),
    ):
        assert f"#SBATCH --{option}\n" in script, script
    assert "--kill-on-bad-exit=1" in script


def start_job(tmp_path, *arguments):
    """`mrcnn slurm --cluster local` with two processes that train on drawn shapes."""
    make_shapes(tmp_path / "data/shapes/shapes_train/1500_seed1.json", 8, seed=1)
    make_shapes(tmp_path / "data/shapes/shapes_val/100_seed2.json", 4, seed=2)
    job = ("--cluster", "local", "--tasks-per-node", 2, "--folder", tmp_path / "job")
    small = (
        *("INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", 96, "TEST.EVAL_PERIOD", 0),
        *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
        *("SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0, "DATASETS.TEST", "()"),
    )
    train = ("--config-file", CONFIGS / "mask_rcnn_shapes_C4.yaml", *arguments, *small)
    env = {
        **os.environ,
        "DETECTRON2_DATASETS": str(tmp_path / "data"),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
    }
    command = [sys.executable, "-m", "mrcnn_command", "slurm", *job, "--", *train]
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=tmp_path,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def tasks(tmp_path, job):
    """Process ids of the tasks of a local job, which its controller has started."""

    def children(pid):
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    (controller,) = children(job.pid)
    return children(controller)


@needs_submitit
@pytest.mark.slow
def test_a_job_is_requeued_and_resumes(tmp_path):
    """SIGUSR2 reaches all processes of a job before its time limit. Slurm starts it again."""
    output = tmp_path / "run"
    job = start_job(tmp_path, "OUTPUT_DIR", output, "SOLVER.MAX_ITER", 400)
    end = time.monotonic() + 240
    log = output / "log.txt"
    while not (log.exists() and "iter: 19" in log.read_text()):
        assert time.monotonic() < end and job.poll() is None, job.communicate()
        time.sleep(0.2)
    for pid in tasks(tmp_path, job):
        os.kill(pid, signal.SIGUSR2)
    printed, _ = job.communicate(timeout=400)
    assert job.returncode == 0, printed
    text = log.read_text()
    assert text.count("Starting training from iteration 0") == 1
    start = text.split("Starting training from iteration ")[2].split()[0]
    assert 19 <= int(start) < 400  # the iteration of the signal; there is no periodic checkpoint
    iterations = [json.loads(line)["iteration"] for line in (output / "metrics.json").open()]
    assert iterations[-1] == 399 and iterations == sorted(set(iterations))
    (task,) = (tmp_path / "job").glob("*_0_log.out")
    assert "Requeued job" in task.read_text()


@needs_submitit
@pytest.mark.slow
def test_a_job_that_fails_says_where_its_output_is(tmp_path):
    job = start_job(tmp_path, "OUTPUT_DIR", tmp_path / "run", "MODEL.WEIGHTS", ROOT / "README.md")
    printed, _ = job.communicate(timeout=240)
    assert job.returncode == 1 and "Traceback" not in printed
    assert "mrcnn slurm: the job has failed; its output is in" in printed
    outputs = [path.read_text() for path in (tmp_path / "job").glob("*_log.out")]
    assert sum("is not a weight file" in text for text in outputs) == 1
