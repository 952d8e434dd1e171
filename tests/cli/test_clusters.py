"""Trainings that torchrun starts, next to the same ones of `--num-gpus`."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from benchmarks.reliability import launchers
from benchmarks.reliability.launchers import Job

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    return launchers.make_drawings(tmp_path_factory.mktemp("datasets"))


def test_torchrun_gives_the_losses_of_num_gpus(drawings, tmp_path):
    jobs = {name: job for name, (job, _) in launchers.compared_jobs(drawings, tmp_path).items()}
    expected = jobs["--num-gpus 2"].losses()
    assert [x[0] for x in expected if x[1] == "total_loss"] == [19, 39, 40]
    for name, machine in (("torchrun, 1 node x 2", 2), ("torchrun, 2 nodes x 1", 1)):
        assert jobs[name].losses() == expected
        log = (jobs[name].output / "log.txt").read_text()
        line = rf"Rank 0 of 2 on \S+ \(local rank 0 of {machine}\), backend gloo"
        assert len(re.findall(line, log)) == 1


def test_torchrun_restarts_and_resumes_when_a_process_is_killed(drawings, tmp_path):
    """Then the run of two processes, which has ended, is continued by one process."""
    starts, _ = launchers.restart(drawings, tmp_path, 121)
    assert starts[0] == 0 and 30 <= starts[1] < 121 and len(starts) == 2
    job = Job(drawings, tmp_path, 131, flags=("--resume",))
    status, printed = job.finish()
    assert status == 0 and "Starting training from iteration 121" in printed, printed
    iterations = [iteration for iteration, name, _ in job.losses() if name == "total_loss"]
    assert iterations[-2:] == [120, 130]


@pytest.mark.parametrize("torchrun", [False, True], ids=["num-gpus", "torchrun"])
def test_a_killed_process_ends_the_job_within_a_minute(drawings, tmp_path, torchrun):
    status, printed, seconds = launchers.kill_one(drawings, tmp_path, torchrun=torchrun)
    assert status == 1 and seconds < 60
    assert launchers.NAMED.search(printed), printed
    assert torchrun or "train_net.py: rank 1 (process" in printed


def test_sigterm_to_the_first_process_saves_a_checkpoint(drawings, tmp_path):
    status, printed, _ = launchers.stop(drawings, tmp_path)
    assert status == 75 and "Traceback" not in printed, printed
    assert printed.count("The same command with --resume continues") == 1


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='needs Ray Train: pip install "ray[train]"'
)
def test_the_recipe_for_ray_train(drawings, tmp_path):
    """The code of docs/clusters.md, in a Ray with little memory that reports nothing."""
    text = (launchers.ROOT / "docs/clusters.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ray = "num_cpus=2, include_dashboard=False, object_store_memory=200_000_000"
    ray += ', _node_ip_address="127.0.0.1"'
    (tmp_path / "recipe.py").write_text(f"import ray\n\nray.init({ray})\n{code}")
    config = ("--config-file", launchers.ROOT / "configs/mask_rcnn_shapes_C4.yaml")
    opts = (*launchers.SMALL, "SOLVER.MAX_ITER", 3, "OUTPUT_DIR", tmp_path / "run")
    path = f"{launchers.ROOT}:{os.environ.get('PYTHONPATH', '')}"
    variables = {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", "CUDA_VISIBLE_DEVICES": ""}
    variables |= {"HOME": str(tmp_path), "DETECTRON2_DATASETS": str(drawings)}
    done = subprocess.run(
        [sys.executable, "recipe.py", *map(str, (*config, *opts))],
        cwd=tmp_path,
        env={
            **os.environ,
            **variables,
            "HOME": str(tmp_path),
            "DETECTRON2_DATASETS": str(drawings),
        },
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    log = (tmp_path / "run/log.txt").read_text()
    assert re.search(r"Rank 0 of 2 on \S+ \(local rank 0 of 2\), backend gloo", log)
    assert (tmp_path / "run/model_final.pth").exists()
