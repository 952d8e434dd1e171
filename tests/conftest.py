"""Markers, seeds and the paths that tests share."""

import logging
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

# The CUDA kernels compiled for CPU tensors, in place of the package's library: see
# test_roi_align_emulation.py.
EMULATION = os.environ.get("MRCNN_TEST_LIBRARY")
if EMULATION:
    load_library = torch.ops.load_library
    torch.ops.load_library = lambda path: load_library(
        EMULATION if Path(path).parent.name == "mrcnn_plugin" else path
    )

import detectron2  # noqa: E402
from builders import ROOT, forget, load_cfg  # noqa: E402
from detectron2.data.datasets import register_coco_instances  # noqa: E402

from mrcnn_plugin.data import make_shapes  # noqa: E402


def pytest_runtest_setup(item):
    """Skip `gpu` tests on a machine without a GPU, or fail them there if REQUIRE_GPU=1."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available() and not EMULATION:
        if os.environ.get("REQUIRE_GPU") == "1":
            pytest.fail("REQUIRE_GPU=1, but torch sees no CUDA device")
        pytest.skip("needs a CUDA device: tools/gpu_suite.sh runs this on a machine that has one")


@pytest.fixture(autouse=True)
def seeded():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def restored_logging():
    """`start_logging` in a test does not change what later tests log."""
    loggers = [logging.getLogger(name) for name in (detectron2.__name__, "fvcore", "mrcnn_plugin")]
    saved = [(list(log.handlers), log.level, log.propagate) for log in loggers]
    yield
    for log, (handlers, level, propagate) in zip(loggers, saved):
        for handler in {*log.handlers} - {*handlers}:
            handler.close()
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)


@pytest.fixture(autouse=True)
def restored_image_limit(monkeypatch):
    """`mrcnn predict --tile` removes Pillow's limit for the rest of its process."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


@pytest.fixture
def device():
    """The device of the CUDA kernels: the GPU, or the CPU if they are emulated there."""
    return "cpu" if EMULATION else "cuda"


@pytest.fixture
def real_images():
    """Directory of real images with annotations: coco_tiny/, fruits_nuts/, labelme_voc3/.

    They are not part of this repository. MRCNN_TEST_DATA names the directory; the default is
    ../shared/data.
    """
    path = Path(os.environ.get("MRCNN_TEST_DATA", ROOT.parent / "shared/data"))
    if not path.is_dir():
        pytest.skip(f"there are no images at {path}: set MRCNN_TEST_DATA (see docs/training.md)")
    return path


@pytest.fixture
def shapes_cfg(tmp_path):
    """`shapes_cfg(*opts)`: a config of a few channels that trains on six drawings in this process.

    The datasets are `drawn_train` and `drawn_val`; `OUTPUT_DIR` exists and is new for each call.
    """
    names = {"drawn_train": (6, 5), "drawn_val": (3, 6)}
    for name, (count, seed) in names.items():
        make_shapes(tmp_path / name / "shapes.json", count, seed=seed)
        json_file = str(tmp_path / name / "shapes.json")
        register_coco_instances(name, {}, json_file, str(tmp_path / name))
    made = []

    def make(*opts):
        made.append(output := tmp_path / f"output{len(made)}")
        output.mkdir()
        return load_cfg(
            "mask_rcnn_shapes_C4.yaml",
            *("DATASETS.TRAIN", ("drawn_train",), "DATASETS.TEST", ("drawn_val",)),
            *("DATALOADER.NUM_WORKERS", 0, "TEST.EVAL_PERIOD", 0, "SOLVER.WARMUP_ITERS", 0),
            *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "OUTPUT_DIR", str(output)),
            *("INPUT.MIN_SIZE_TRAIN", (96,), "INPUT.MIN_SIZE_TEST", 96),
            *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
            *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 40, "MODEL.RPN.POST_NMS_TOPK_TEST", 10),
            *opts,
        )

    yield make
    forget(*names)


@pytest.fixture
def report_may_fail():
    """For tests in which a report fails on purpose."""


@pytest.fixture(autouse=True)
def reports_do_not_fail(request):
    """Fail a test whose training logs that a report could not be made, and continues."""
    errors = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: errors.append(logging.Formatter().format(record))
    logger = logging.getLogger("mrcnn_plugin.engine.hooks.report")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    if errors and "report_may_fail" not in request.fixturenames:
        pytest.fail("\n".join(errors))
