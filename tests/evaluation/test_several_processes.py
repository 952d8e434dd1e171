"""Evaluation by two real processes, with files, faults and deaths."""

import datetime
import json
import logging
import multiprocessing
import os
import re
import resource
import signal
import time
from pathlib import Path

import pytest
import torch.distributed as dist
from builders import evaluate, forget, noisy_predictions
from detectron2.data.datasets import register_coco_instances
from detectron2.utils import comm

from mrcnn_plugin.data import make_shapes
from mrcnn_plugin.errors import RunError
from mrcnn_plugin.evaluation import (
    AnalysingCOCOEvaluator,
    heartbeat,
    prediction_files,
)
from mrcnn_plugin.evaluation import (
    evaluator as evaluator_module,
)
from mrcnn_plugin.evaluation.analysis import RESULTS_FILE

NAME = "several_processes_test"
OUTPUTS = (RESULTS_FILE, "analysis.json")


def prepare(folder):
    """Seven drawings and noisy predictions of them, the same in every process."""
    if not Path(folder, "shapes.json").exists():
        make_shapes(Path(folder, "shapes.json"), 7, seed=3)
    register_coco_instances(NAME, {}, str(Path(folder, "shapes.json")), str(folder))
    return noisy_predictions(NAME)


def meet(folder, rank, name):
    """Wait for the other process without torch.distributed."""
    Path(folder, f"{name}{rank}").touch()
    while not Path(folder, f"{name}{1 - rank}").exists():
        time.sleep(0.02)


def work(rank, folder, function, timeout):
    """The body of a process: write what `function(rank, folder)` returns to `found<rank>.json`."""
    predictions = prepare(folder)
    meet(folder, rank, "imported")  # imports take long on a busy machine, the timeout may not
    url, limit = f"file://{folder}/store", datetime.timedelta(seconds=timeout)
    dist.init_process_group("gloo", init_method=url, world_size=2, rank=rank, timeout=limit)
    comm.create_local_process_group(2)
    found = function(rank, folder, predictions)
    Path(folder, f"found{rank}.json").write_text(json.dumps(found))
    if found != "alone":
        meet(folder, rank, "left")
    os._exit(0)  # gloo's threads sometimes abort an ordinary exit on a busy machine


def in_two_processes(folder, function, *, timeout=600, exitcodes=(0, 0), within=100):
    """Run `function(rank, folder, predictions)` twice and return the two results."""
    prepare(folder)
    forget(NAME)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=work, args=(rank, str(folder), function, timeout))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(within)
        assert tuple(process.exitcode for process in processes) == exitcodes
    finally:
        for process in processes:
            process.kill()
    files = [Path(folder, f"found{rank}.json") for rank in range(2)]
    return [json.loads(file.read_text()) if file.exists() else None for file in files]


def shares_of(predictions, *indices):
    """(inputs, outputs) of some images of this rank: `indices[rank]`."""
    inputs, outputs = predictions
    mine = indices[comm.get_rank()]
    return [inputs[i] for i in mine], [outputs[i] for i in mine]


def evaluate_share(share, output_dir):
    evaluator = AnalysingCOCOEvaluator(NAME, output_dir=output_dir)
    evaluator.reset()
    for input_, output in zip(*share):
        evaluator.process([input_], [output])
    return evaluator.evaluate()


def error_of(call):
    try:
        call()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


SHARES = {
    "odd": ([0, 1, 2, 3], [4, 5, 6]),
    "alternating": ([0, 2, 4, 6], [1, 3, 5]),
    "padded": ([0, 1, 2, 3], [4, 5, 6, 0]),
    "all_on_rank_1": ([], [0, 1, 2, 3, 4, 5, 6]),
    "one_image": ([0], []),
    "one_image_on_rank_1": ([], [5]),
    "only_an_empty_image": ([], [2]),  # predictions without an object
    "nothing": ([], []),
}


def all_results(rank, folder, predictions):
    found = {}
    for case, shares in SHARES.items():
        found[case] = evaluate_share(shares_of(predictions, *shares), f"{folder}/{case}")
    odd = shares_of(predictions, *SHARES["odd"])
    found["no_folder"] = evaluate_share(odd, None)
    own = f"{folder}/own{rank}"
    found["folder_per_rank"] = evaluate_share(odd, own)
    prediction_files._is_readable = lambda part: f"rank{rank}_" in part.file or not part.file
    prediction_files._CHUNK = 1000
    found["not_shared"] = evaluate_share(odd, f"{folder}/not_shared")
    return {case: repr(results) for case, results in found.items()}


def test_two_processes_give_the_results_of_one(tmp_path):
    found = in_two_processes(tmp_path, all_results)
    predictions = prepare(tmp_path)
    try:
        for case, results in found[0].items():
            shares = SHARES.get(case, SHARES["odd"])
            images = sorted({i for share in shares for i in share})
            share = [[side[i] for i in images] for side in predictions]
            expected = evaluate(NAME, share, tmp_path / "one" / case)
            assert results == repr(expected), case
            assert found[1][case] == "{}", case
            if case == "no_folder":
                continue
            folder = tmp_path / ("own0" if case == "folder_per_rank" else case)
            for name in OUTPUTS:
                files = [folder / name, tmp_path / "one" / case / name]
                assert files[0].exists() == files[1].exists(), case
                if files[0].exists():
                    assert files[0].read_bytes() == files[1].read_bytes(), case
            assert {p.name for p in folder.glob("*")} <= {*OUTPUTS}, case
    finally:
        forget(NAME)


def fail(error):
    def function(*_):
        raise error

    return function


def limit_files(size):
    """Writes beyond `size` bytes of a file fail from now on, as on a full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def all_errors(rank, folder, predictions):
    found = {}
    all_gather = comm.all_gather
    share = shares_of(predictions, *SHARES["odd"])
    attempt = lambda: evaluate_share(share, f"{folder}/out")  # noqa: E731
    analyse = evaluator_module.analyse
    for case, error in (
        ("run", RunError("a cause")),
        ("other", ZeroDivisionError("by 0")),
        ("interrupted", KeyboardInterrupt()),
    ):
        evaluator_module.analyse = fail(error)
        found[case] = error_of(attempt)
    evaluator_module.analyse = analyse

    Path(folder, "out", RESULTS_FILE).write_text("old")
    if rank == 1:
        limit_files(1000)
    found["disk_of_rank_1"] = error_of(attempt)
    limit_files(resource.RLIM_INFINITY)

    write_results = evaluator_module.write_results
    evaluator_module.write_results = lambda *a: (limit_files(1000), write_results(*a))
    found["disk_in_merge"] = error_of(attempt)
    limit_files(resource.RLIM_INFINITY)
    evaluator_module.write_results = write_results

    is_readable = prediction_files._is_readable
    prediction_files._is_readable = lambda part: limit_files(1000)
    found["disk_in_copy"] = error_of(attempt)
    limit_files(resource.RLIM_INFINITY)
    prediction_files._is_readable = is_readable

    classes = share[1][0]["instances"].pred_classes
    right = classes.clone()
    classes += 100 * rank
    found["class_of_rank_1"] = error_of(attempt)
    comm.synchronize()
    found["left"] = sorted(os.listdir(f"{folder}/out"))
    found["old"] = Path(folder, "out", RESULTS_FILE).read_text()
    comm.synchronize()
    classes.copy_(right)
    found["afterwards"] = error_of(attempt)

    # A signal to all processes. The last case, as not every rank makes every collective call.
    evaluator_module.write_results = fail(KeyboardInterrupt())
    if rank == 1:
        heartbeat.comm.all_gather = lambda data: (
            fail(KeyboardInterrupt())() if data is None else all_gather(data)
        )
    started = time.monotonic()
    found["all_interrupted"] = error_of(attempt)
    found["in_time"] = time.monotonic() - started < 30
    return found


def test_every_process_raises_the_error_of_one(tmp_path):
    first, second = in_two_processes(tmp_path, all_errors)
    assert first.pop("other") == "ZeroDivisionError: by 0"
    assert second.pop("other").startswith("RunError: rank 0 failed while the others waited for it")
    assert first == second
    assert first["run"] == "RunError: a cause"
    assert first["interrupted"] == "KeyboardInterrupt: "
    for case, start in (
        ("disk_of_rank_1", "Rank 1 on .*/predictions_rank1_.*jsonl"),
        ("disk_in_merge", f".*{RESULTS_FILE}"),
        ("disk_in_copy", "Rank 0 on .*/predictions_rank0_.*jsonl"),
    ):
        assert re.match(rf"RunError: {start}.* \(File too large\). Free space", first[case]), case
    assert "has class 10" in first["class_of_rank_1"]
    assert first["left"] == [RESULTS_FILE] and first["old"] == "old"
    assert first["afterwards"] is None
    assert first["all_interrupted"] == "KeyboardInterrupt: " and first["in_time"]


def long_evaluation(rank, folder, predictions):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    heartbeat.logger.addHandler(handler)
    heartbeat.logger.setLevel(logging.INFO)
    heartbeat.LOG_PERIOD = 3
    analyse = evaluator_module.analyse
    evaluator_module.analyse = lambda *a: (time.sleep(12), analyse(*a))[1]
    results = evaluate_share(shares_of(predictions, *SHARES["odd"]), f"{folder}/out")
    return [repr(results), lines]


@pytest.mark.slow
def test_an_evaluation_may_take_longer_than_the_timeout_of_the_processes(tmp_path):
    (results, lines), (_, waited) = in_two_processes(tmp_path, long_evaluation, timeout=6)
    assert "'AP': " in results and lines == []
    assert [line.rpartition(" since ")[2] for line in waited][:3] == ["3 s", "6 s", "9 s"]


def killed_in_the_merge(rank, folder, predictions):
    def lines_of_half_the_images(parts):
        yield from [*read_lines(parts)][:3]
        Path(folder, "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    read_lines = evaluator_module.read_lines
    evaluator_module.read_lines = lines_of_half_the_images
    Path(folder, "error").write_text(
        error_of(lambda: evaluate_share(shares_of(predictions, *SHARES["odd"]), f"{folder}/out"))
    )
    return "alone"


def test_the_death_of_rank_0_ends_the_others_and_leaves_no_results(tmp_path):
    in_two_processes(tmp_path, killed_in_the_merge, exitcodes=(-signal.SIGKILL, 0))
    killed, raised = ((tmp_path / name).stat().st_mtime for name in ("killed", "error"))
    assert raised - killed < 20
    error = (tmp_path / "error").read_text()
    assert error.startswith("RunError: rank 0 ended or cannot be reached while the others waited")
    left = {path.name.partition("rank0_")[0] for path in (tmp_path / "out").glob("*")}
    assert left == {f"{RESULTS_FILE}.unfinished", "predictions_"}
    predictions = prepare(tmp_path)
    try:
        evaluate(NAME, predictions, tmp_path / "out")
    finally:
        forget(NAME)
    assert {path.name for path in (tmp_path / "out").glob("*")} == {*OUTPUTS}


def rank_1_killed(rank, folder, predictions):
    analyse = evaluator_module.analyse
    evaluator_module.analyse = lambda *a: (time.sleep(4), analyse(*a))[1]
    if rank == 1:
        wait = heartbeat.comm.all_gather
        started = time.monotonic()

        def die_soon(message):
            if message is None and time.monotonic() - started > 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return wait(message)

        heartbeat.comm.all_gather = die_soon
    share = shares_of(predictions, *SHARES["odd"])
    Path(folder, "error").write_text(error_of(lambda: evaluate_share(share, f"{folder}/out")))
    return "alone"


@pytest.mark.slow
def test_the_death_of_a_waiting_rank_is_an_error_of_rank_0(tmp_path):
    in_two_processes(tmp_path, rank_1_killed, exitcodes=(0, -signal.SIGKILL))
    error = (tmp_path / "error").read_text()
    assert error.startswith("RunError: another process ended while rank 0 was working")
    assert (tmp_path / "out" / RESULTS_FILE).exists()  # `mrcnn report --evaluate` can read them
