"""Processes that `launch` starts, or joins when torchrun or Slurm has started them."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders import ROOT
from detectron2.engine import default_argument_parser

from mrcnn_plugin.engine.environment import Place, place_in_environment
from mrcnn_plugin.engine.launch import launch
from mrcnn_plugin.errors import RunError

TORCH = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_JOB_ID": "1001",
    "SLURM_STEP_ID": "2",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_TASKS_PER_NODE": "2(x2)",
    "SLURM_JOB_NODELIST": "gpu[7-8]",
}


def test_variables_of_torchrun():
    assert place_in_environment(TORCH) == Place(3, 4, 1, 2, "env://")
    assert place_in_environment({**SLURM, **TORCH}).url == "env://"  # torchrun in a Slurm job
    one = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    assert place_in_environment(one) == Place(0, 1, 0, 1, "env://")
    assert place_in_environment({"PATH": "/bin"}) is None


def test_variables_of_slurm():
    assert place_in_environment(SLURM) == Place(3, 4, 1, 2, "tcp://gpu7:28010")  # 20000 + 8010
    given = {**SLURM, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    assert place_in_environment(given).url == "tcp://10.0.0.1:29500"
    launched = {k: v for k, v in SLURM.items() if k != "SLURM_JOB_NODELIST"}
    launched["SLURM_LAUNCH_NODE_IPADDR"] = "10.0.0.2"
    assert place_in_environment(launched).url == "tcp://10.0.0.2:28010"


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_NTASKS": "1"},  # srun --ntasks 1 train_net.py --num-gpus 8
        {"SLURM_STEP_NUM_TASKS": "1"},  # one task, in a job of four
        {"SLURM_STEP_ID": None},  # the shell of salloc or sbatch has the job's SLURM_NTASKS
        {"SLURM_PROCID": None},
        {"SLURM_NTASKS": None},
    ],
)
def test_what_is_a_single_process_under_slurm(change):
    environ = {name: value for name, value in {**SLURM, **change}.items() if value is not None}
    assert place_in_environment(environ) is None


@pytest.mark.parametrize(
    "nodes, first",
    [
        ("node1", "node1"),
        ("gpu[003-005,010],other", "gpu003"),
        ("gpu[12,15]", "gpu12"),
        ("a,b[1-2]", "a"),
        ("rack[1-2]n[04-05]", "rack1n04"),
        ("gpu[1-2].cluster.org", "gpu1.cluster.org"),
    ],
)
def test_first_machine_of_a_list_of_nodes(nodes, first):
    place = place_in_environment({**SLURM, "SLURM_STEP_NODELIST": nodes})
    assert place.url == f"tcp://{first}:28010"


@pytest.mark.parametrize(
    "base, change, message",
    [
        (TORCH, {"WORLD_SIZE": None}, "RANK, LOCAL_RANK.* is set .* but WORLD_SIZE is not"),
        (TORCH, {"LOCAL_RANK": None, "LOCAL_WORLD_SIZE": ""}, "LOCAL_RANK, LOCAL_WORLD_SIZE is n"),
        (TORCH, {"MASTER_PORT": None}, "but MASTER_PORT is not"),
        (TORCH, {"MASTER_PORT": "http"}, "variable MASTER_PORT is 'http'; expected a number"),
        (TORCH, {"RANK": "two"}, "variable RANK is 'two'; expected a number"),
        (TORCH, {"RANK": "-1"}, "variable RANK is '-1'"),
        (TORCH, {"RANK": "4"}, "rank 4 of 4 .*from RANK, WORLD_SIZE"),
        (TORCH, {"LOCAL_RANK": "2"}, "local rank 2 of 2"),
        (TORCH, {"LOCAL_WORLD_SIZE": "3"}, "the same number of processes on each machine"),
        (TORCH, {"LOCAL_RANK": "0"}, "ranks of a machine to follow each other"),
        (SLURM, {"SLURM_PROCID": "x"}, "variable SLURM_PROCID is 'x'"),
        (SLURM, {"SLURM_LOCALID": None}, "SLURM_PROCID is set .* but SLURM_LOCALID is not"),
        (
            SLURM,
            {"SLURM_TASKS_PER_NODE": "3,1"},
            "PER_NODE is '3,1'; expected the same number",
        ),
        (SLURM, {"SLURM_TASKS_PER_NODE": None}, "none of SLURM_STEP_TASKS_PER_NODE"),
        (SLURM, {"SLURM_JOB_NODELIST": None}, "Set MASTER_ADDR"),
        (SLURM, {"SLURM_LOCALID": "0"}, "--distribution=block"),
    ],
)
def test_variables_that_no_launcher_sets(base, change, message):
    environ = {name: value for name, value in {**base, **change}.items() if value is not None}
    with pytest.raises(RunError, match=message):
        place_in_environment(environ)


@pytest.mark.parametrize(
    "options", ["--num-gpus 2", "--num-machines 2", "--dist-url auto", "--machine-rank 1"]
)
@pytest.mark.parametrize("variables", [TORCH, SLURM, {**TORCH, "RANK": "0", "WORLD_SIZE": "1"}])
def test_options_that_start_processes_next_to_a_launcher(options, variables, monkeypatch):
    if variables.get("WORLD_SIZE") == "1":
        variables = {**variables, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    args = default_argument_parser().parse_args(options.split())
    with pytest.raises(RunError, match=rf"{options.split()[0]} is .*a launcher has started"):
        launch(print, args)


def test_a_job_of_one_process_needs_no_process_group(monkeypatch):
    for name, value in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), "0101"):
        monkeypatch.setenv(name, value)
    called = []
    launch(called.append, args := default_argument_parser().parse_args([]))
    assert called == [args]


def start(task, folder, *, torchrun=(), processes=2):
    """Start toy_job.py in processes of its own, or with torchrun."""
    program = [str(ROOT / "tests/engine/toy_job.py"), task, str(folder)]
    if torchrun:
        command = [sys.executable, "-m", "torch.distributed.run", *map(str, torchrun), *program]
    else:
        command = [sys.executable, *program, "--num-gpus", str(processes), "--dist-url", "auto"]
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(ROOT),
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=env, start_new_session=True, **pipes)


def finish(process):
    """(exit status, what was printed); the process has at most a minute."""
    try:
        printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, printed


TORCHRUN = ("--nproc-per-node", 2, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0")
both_ways = pytest.mark.parametrize("torchrun", [(), TORCHRUN], ids=["launch", "torchrun"])


@both_ways
def test_processes_of_a_job_know_each_other(torchrun, tmp_path):
    status, printed = finish(start("nothing", tmp_path, torchrun=torchrun))
    assert status == 0, printed
    for rank in (0, 1):
        line = (tmp_path / f"rank{rank}").read_text()
        expected = rf"Rank {rank} of 2 on \S+ \(local rank {rank} of 2\), backend gloo, sum 2\.0"
        assert re.fullmatch(expected, line)


def test_two_machines_with_one_process_each(tmp_path):
    port = free_port()
    nodes = ("--nnodes", 2, "--nproc-per-node", 1, "--rdzv-backend", "c10d", "--rdzv-id", "toy")
    nodes = (*nodes, "--rdzv-endpoint", f"localhost:{port}")
    jobs = [start("nothing", tmp_path, torchrun=nodes) for _ in range(2)]
    assert [finish(job)[0] for job in jobs] == [0, 0]
    lines = [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)]
    assert all("(local rank 0 of 1), backend gloo, sum 2.0" in line for line in lines)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@both_ways
@pytest.mark.parametrize(
    "task, sentence",
    [("run_error", "toy: rank 1 is wrong"), ("run_errors", "toy: all ranks are wrong")],
)
def test_the_error_of_a_process_is_printed_once(torchrun, task, sentence, tmp_path):
    status, printed = finish(start(task, tmp_path, torchrun=torchrun))
    assert status == 1 and printed.count(sentence) == 1, printed
    assert 'toy_job.py", line' not in printed  # no traceback of the program


@both_ways
def test_only_the_first_exception_has_a_traceback(torchrun, tmp_path):
    status, printed = finish(start("exception", tmp_path, torchrun=torchrun))
    assert status == 1 and printed.count("raise ZeroDivisionError") == 1, printed
    assert "Connection closed" not in printed


@both_ways
def test_a_killed_process_ends_the_job_and_is_named(torchrun, tmp_path):
    status, printed = finish(start("killed", tmp_path, torchrun=torchrun))
    assert status == 1
    if torchrun:
        assert re.search(r"Root Cause.*rank *: 1 .*Signal 9 \(SIGKILL\)", printed, re.DOTALL)
    else:
        assert re.match(r"toy: rank 1 \(process \d+ on \S+\) was killed by SIGKILL\.", printed)
        assert "memory" in printed and "Traceback" not in printed


def wait_for(*files, seconds=60):
    end = time.monotonic() + seconds
    while not all(file.exists() for file in files):
        assert time.monotonic() < end, f"{files} were not written in {seconds} s"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_each_process_once_and_the_status_comes_back(number, tmp_path):
    """Ctrl-C in a terminal reaches all processes of a group, here those of a session."""
    job = start("signals", tmp_path)
    wait_for(tmp_path / "ready0", tmp_path / "ready1")
    os.killpg(job.pid, number)
    status, printed = finish(job)
    assert status == 71 and "Traceback" not in printed, printed


def test_no_process_leaves_before_the_others_have_finished(tmp_path):
    """Gloo's threads abort a process, now and then, whose peer has left."""
    status, printed = finish(start("late", tmp_path))
    assert status == 0, printed
    left = (tmp_path / "rank0_left").stat().st_mtime
    assert left >= Path(tmp_path, "finished1").stat().st_mtime
