"""The code in the README runs as it stands."""

import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from builders import CONFIGS, ROOT, load_cfg
from detectron2.modeling import build_model


def python_block(containing):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = [b for b in blocks if containing in b]
    return block


def run(code, cwd):
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_roi_align_alone(tmp_path):
    code = python_block("roi_align(features")
    assert run(code, tmp_path) == "torch.Size([1, 1024, 7, 7])\n"


@pytest.mark.slow
def test_six_lines_of_use(tmp_path):
    model = build_model(load_cfg("mask_rcnn_R101_C4.yaml"))
    model.backbone.stem.conv1.norm.weight.zero_()  # random FrozenBN would overflow: flat features
    torch.save({"model": model.state_dict()}, tmp_path / "model_final.pth")
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.random.randint(0, 255, (120, 160, 3), np.uint8))
    (tmp_path / "configs").symlink_to(CONFIGS)
    shape = run(python_block("DefaultPredictor(cfg)"), tmp_path).splitlines()[-1]
    assert re.fullmatch(r"torch.Size\(\[\d+, 120, 160\]\)", shape)
