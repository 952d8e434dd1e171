"""The code in the README runs as it stands."""

import re
import subprocess
import sys

import cv2
import numpy as np
from builders import ROOT, tiny_model_file


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


def test_six_lines_of_use(tmp_path):
    (tmp_path / "output").mkdir()
    tiny_model_file(tmp_path / "output/model_best.pth", score_thresholds=[0.1, 0.1, 0.1])
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.random.randint(0, 255, (120, 160, 3), np.uint8))
    *found, shape = run(python_block("Predictor("), tmp_path).splitlines()
    assert found and all(re.fullmatch(r"(apple|cup|pen) \d+%", line) for line in found)
    assert shape == f"torch.Size([{len(found)}, 120, 160])"
