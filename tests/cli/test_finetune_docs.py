"""Runs every command of docs/finetune.md, in order, on small images with a small network."""

import json
import re

import pytest
from builders import CONFIGS, ROOT
from detectron2.config import get_cfg
from documented_commands import bash_blocks, run_commands

from mrcnn_plugin.config import add_mrcnn_config
from mrcnn_plugin.data import make_shapes
from mrcnn_plugin.engine.epochs import schedule

DOCS = ROOT / "docs/finetune.md"

# As mask_rcnn_R101_C4_finetune.yaml, whose weights are not part of the repository.
TINY = """
_BASE_: "{base}"
DATALOADER: {{NUM_WORKERS: 0}}
INPUT: {{MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}}
SOLVER: {{MAX_ITER: 0, IMS_PER_BATCH: 2, BASE_LR: 0.01}}
TEST: {{VAL_LOSS: True, BEST_METRIC: "validation/total_loss"}}
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A directory with my.json, more.json (one class renamed), test.json and their images."""
    root = tmp_path_factory.mktemp("finetune")
    (root / "tiny.yaml").write_text(TINY.format(base=CONFIGS / "mask_rcnn_shapes_C4.yaml"))
    for name, folder, count in (("my", "photos", 6), ("test", "test_photos", 2)):
        make_shapes(root / folder / f"{name}.json", count, seed=count, size=64)
        (root / folder / f"{name}.json").rename(root / f"{name}.json")
    content = json.loads((root / "my.json").read_text())
    content["categories"][0]["name"] = "hexagon"
    (root / "more.json").write_text(json.dumps(content))
    return root


@pytest.mark.slow
def test_the_commands_of_the_page(workplace):
    code, printed = run_commands(workplace, "\n".join(bash_blocks(DOCS.read_text())))
    assert code == 0, printed[-4000:]
    assert "0 error" in printed and printed.count("20 epochs (--epochs) of") == 2
    output = workplace / "output"
    assert (output / "my/model_best.pth").exists() and (output / "my/report.html").exists()
    assert len(list((output / "my_predictions/overlays").rglob("*.png"))) == 6
    assert len(list((output / "my_augmented").iterdir())) == 12
    assert "'ROTATION': 20.0" in printed
    for next_command in ("mrcnn train --config-file", "mrcnn report output/my", "mrcnn predict"):
        assert f"next: {next_command}" in printed
    assert "evaluating on test" in printed.lower()
    assert "are copied for 2 classes" in printed and "of 1 classes (hexagon) start" in printed


def test_the_numbers_of_the_page():
    """The example log and the defaults are what the code computes."""
    text = " ".join(DOCS.read_text().split())
    values = ", ".join(f"{k} {v}" for k, v in schedule(1600, 20, warmup=1000).items())
    assert f"The schedule is {values}" in text
    assert schedule(900, 20, warmup=1000)["SOLVER.STEPS"] == (700, 833)
    assert "drops at 700 and 833" in text

    add_mrcnn_config(cfg := get_cfg())
    for key, value in cfg.INPUT.AUG.items():
        if key != "ENABLED":
            assert f"`INPUT.AUG.{key}` | `{value}` |" in text


def test_the_page_shows_every_command():
    text = DOCS.read_text()
    outside = re.sub(r"^```bash\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert len(re.findall(r"^mrcnn ", "".join(bash_blocks(text)), flags=re.MULTILINE)) == 8
    assert not re.search(r"^\s*mrcnn ", outside, flags=re.MULTILINE)
