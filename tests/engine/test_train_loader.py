"""The training loader: detectron2's order, any start, any number of workers, clear errors."""

import os
import random
import re
import signal
import time
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import train
from detectron2.data import DatasetCatalog, build_detection_train_loader
from detectron2.data.samplers import TrainingSampler

from mrcnn_plugin.engine import MRCNNTrainer
from mrcnn_plugin.engine.train_loader import LoadingError, TrainLoader
from mrcnn_plugin.errors import RunError

IMAGES = [
    {"file_name": f"{i}.jpg", "image_id": i, "width": w, "height": h}
    for i, (w, h) in enumerate([(8, 5), (5, 8), (9, 2), (5, 5), (7, 3), (2, 4), (3, 1)])
]


def draw_from_all_generators(image):
    numbers = random.random(), np.random.random(), float(torch.rand(()))
    return {**image, "numbers": numbers}


def loader(mapper=draw_from_all_generators, *, workers=0, timeout=30.0, seed=3, size=2):
    return TrainLoader(
        IMAGES,
        mapper=mapper,
        build_sampler=lambda: TrainingSampler(len(IMAGES)),
        seed=seed,
        batch_size=size,
        group_by_orientation=True,
        num_workers=workers,
        timeout=timeout,
    )


def take(iterable, count):
    return list(islice(iterable, count))


def test_the_order_is_that_of_detectron2():
    np.random.seed(3)  # TrainingSampler draws its seed from here
    reference = build_detection_train_loader(
        IMAGES,
        mapper=dict,
        sampler=TrainingSampler(len(IMAGES)),
        total_batch_size=2,
        num_workers=0,
    )
    expected = [[d["image_id"] for d in batch] for batch in take(reference, 40)]
    assert [[d["image_id"] for d in batch] for batch in take(loader(), 40)] == expected
    wide = [{IMAGES[i]["width"] > IMAGES[i]["height"] for i in batch} for batch in expected]
    assert all(len(kinds) == 1 for kinds in wide)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 17])
def test_it_continues_at_any_iteration_with_any_number_of_workers(start, workers):
    expected = take(loader(), 25)
    resumed = loader(workers=workers)
    resumed.start_iter = start
    assert take(resumed, 25 - start) == expected[start:]
    assert take(loader(seed=4), 25) != expected


def test_it_does_not_draw_from_the_generators_of_the_model():
    def state():
        return (
            random.getstate()[1],
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
        )

    before = state()
    take(loader(), 5)
    assert state() == before


def test_two_processes_share_the_images(monkeypatch):
    alone = [d["image_id"] for batch in take(loader(size=1), 14) for d in batch]
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda data: [data])
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        shares.append([batch[0] for batch in take(loader(size=1), 7)])
    merged = [d["image_id"] for pair in zip(*shares) for d in pair]
    assert merged == alone
    assert not {d["numbers"] for d in shares[0]} & {d["numbers"] for d in shares[1]}


def skip_even(image):
    return None if image["image_id"] % 2 == 0 else draw_from_all_generators(image)


def test_a_mapper_may_skip_images():
    batches = take(loader(skip_even), 20)
    assert {d["image_id"] for batch in batches for d in batch} == {1, 3, 5}
    assert take(loader(skip_even, workers=2), 20) == batches


def test_a_mapper_that_skips_everything_is_an_error():
    with pytest.raises(LoadingError, match=r"skipped 10 images in a row, the last one is \d.jpg"):
        take(loader(lambda image: None), 1)


def fail_at_3(image, error):
    if image["image_id"] == 3:
        raise error
    return image


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_an_image_is_its_sentence(workers):
    mapper = partial(fail_at_3, error=RunError("3.jpg cannot be read"))
    with pytest.raises(LoadingError) as caught:
        take(loader(mapper, workers=workers), 20)
    assert str(caught.value) == "3.jpg cannot be read"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_program_keeps_its_traceback(workers):
    with pytest.raises(RuntimeError, match="a bug") as caught:
        take(loader(partial(fail_at_3, error=RuntimeError("a bug")), workers=workers), 20)
    assert not isinstance(caught.value, RunError)


def disturb_at_3(image, what):
    if image["image_id"] == 3:
        time.sleep(600) if what == "hang" else os.kill(os.getpid(), signal.SIGKILL)
    return image


@pytest.mark.parametrize(
    "what, message", [("hang", r"timed out after 2"), ("kill", r"exited unexpectedly")]
)
def test_a_worker_that_hangs_or_dies_is_an_error_with_the_images(what, message):
    start = time.monotonic()
    with pytest.raises(LoadingError, match=message) as caught:
        take(loader(partial(disturb_at_3, what=what), workers=1, timeout=2.0), 20)
    text = str(caught.value)
    assert "images that were being loaded" in text and "\n    3.jpg" in text
    assert "DATALOADER.NUM_WORKERS lower" in text and "DATALOADER.TIMEOUT is 2.0 s" in text
    assert time.monotonic() - start < 30


@pytest.fixture
def with_a_broken_image(shapes_cfg):
    """A config whose training data has one file that is no image."""
    cfg = shapes_cfg("SOLVER.MAX_ITER", 6, "TEST.REPORT", False, "DATASETS.TEST", ())
    broken = DatasetCatalog.get("drawn_train")[0]["file_name"]
    Path(broken).write_text("no image")
    return cfg, broken


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_ends_a_run_with_its_name(workers, with_a_broken_image):
    cfg, broken = with_a_broken_image
    cfg.DATALOADER.NUM_WORKERS = workers
    with pytest.raises(LoadingError, match=re.escape(broken)):
        train(cfg)


def test_a_broken_image_is_skipped_on_request(with_a_broken_image, caplog):
    cfg, broken = with_a_broken_image
    cfg.DATALOADER.SKIP_BAD_IMAGES = True
    with caplog.at_level("WARNING"):
        train(cfg)
    assert f"skipped, 1 so far in this process: {broken}" in caplog.text


def test_a_broken_image_of_an_evaluation_is_named(with_a_broken_image):
    cfg, broken = with_a_broken_image
    with pytest.raises(RunError, match=re.escape(broken)):
        take(MRCNNTrainer.build_test_loader(cfg, "drawn_train"), 6)
