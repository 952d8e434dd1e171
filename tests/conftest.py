"""Markers, seeds and the paths that tests share."""

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))  # builders, oracles


def pytest_runtest_setup(item):
    """`gpu` tests skip where there is no card, and fail where REQUIRE_GPU=1 says there must be one."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        if os.environ.get("REQUIRE_GPU") == "1":
            pytest.fail("REQUIRE_GPU=1, but torch sees no CUDA device")
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def seeded():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def photographs():
    """Directory of real photographs with COCO annotations: coco_tiny/, fruits_nuts/, labelme_voc3/.

    They are not part of this repository. MRCNN_TEST_DATA names the directory; ../shared/data is
    looked at otherwise.
    """
    path = Path(os.environ.get("MRCNN_TEST_DATA", ROOT.parent / "shared/data"))
    if not path.is_dir():
        pytest.skip(f"no photographs at {path}: set MRCNN_TEST_DATA (docs/training.md says to what)")
    return path
