"""Runs every command of docs/custom_data.md, in order, on small images."""

import json
import re

import cv2
import pytest
from builders import CONFIGS, ROOT
from documented_commands import bash_blocks, run_commands
from pycocotools import mask as mask_utils

from mrcnn_plugin.data import make_shapes

DOCS = ROOT / "docs/custom_data.md"

# Seconds instead of days: two iterations of a small network on small images.
TINY = """
_BASE_: "{base}"
DATALOADER: {{NUM_WORKERS: 0}}
INPUT: {{MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}}
SOLVER: {{MAX_ITER: 2, IMS_PER_BATCH: 2}}
TEST: {{EVAL_PERIOD: 0}}
"""


def draw_labelme_photos(folder, num_images=6):
    """Drawn shapes with their outlines in labelme files."""
    make_shapes(folder / "shapes.json", num_images, seed=4, size=64)
    content = json.loads((folder / "shapes.json").read_text())
    (folder / "shapes.json").unlink()
    names = {c["id"]: c["name"] for c in content["categories"]}
    for image in content["images"]:
        shapes = []
        for a in content["annotations"]:
            if a["image_id"] == image["id"]:
                mask = mask_utils.decode(a["segmentation"])
                (outline, *_), _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                points = outline[:, 0].tolist()
                shapes.append({"label": names[a["category_id"]], "points": points})
        content_of_file = {"shapes": shapes, "imagePath": image["file_name"]}
        path = (folder / image["file_name"]).with_suffix(".json")
        path.write_text(json.dumps(content_of_file))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A directory that looks like the repository to the commands, with `photos/` in it."""
    root = tmp_path_factory.mktemp("custom_data")
    for name in ("configs", "train_net.py"):
        (root / name).symlink_to(ROOT / name)
    (root / "tiny.yaml").write_text(TINY.format(base=CONFIGS / "mask_rcnn_shapes_C4.yaml"))
    draw_labelme_photos(root / "photos")
    return root


@pytest.mark.slow
def test_the_commands_of_the_page(workplace):
    blocks = bash_blocks(DOCS.read_text())
    code, printed = run_commands(workplace, "\n".join(blocks))
    assert code == 0, printed[-4000:]
    assert "classes circle, square, triangle" in printed
    assert "0 error" in printed
    output = workplace / "output"
    assert (output / "my_stats.png").exists()
    assert len(list((output / "my_drawn").iterdir())) == 6
    assert printed.count("Evaluation results for segm") >= 5  # three trainings, two evaluations
    assert "are the same data" in printed
    assert (output / "my/model_final.pth").exists()
    config = (output / "my/config.yaml").read_text()
    assert "- my_split_train\n" in config and "- my_split_val\n" in config


def test_the_page_shows_every_command():
    """A command without a fence would not be run."""
    text = DOCS.read_text()
    commands = sum(block.count("python ") + block.count("mrcnn ") for block in bash_blocks(text))
    outside = re.sub(r"^```bash\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert commands >= 12
    assert not re.search(r"^\s*(python|mrcnn) ", outside, flags=re.MULTILINE)


def test_train_on_labelme_files_then_evaluate_from_the_saved_config(workplace):
    """The shortest way through the page, with a fault that is reported, then dropped."""
    commands = """
    mrcnn dataset convert labelme photos photos short.json
    python - <<'PYTHON'
import json
content = json.load(open("short.json"))
content["annotations"][0]["category_id"] = 9
json.dump(content, open("short.json", "w"))
PYTHON
    ! mrcnn dataset check short.json:photos
    ! python train_net.py --config-file $CONFIG --train my=short.json:photos --val-fraction 0.4 \
        OUTPUT_DIR output/bad
    python train_net.py --config-file $CONFIG --train my=short.json:photos --val-fraction 0.4 \
        --drop-bad OUTPUT_DIR output/short
    python train_net.py --config-file output/short/config.yaml --eval-only \
        MODEL.WEIGHTS output/short/model_final.pth
    """
    code, printed = run_commands(workplace, commands)
    assert code == 0, printed[-4000:]
    assert printed.count("Traceback") == 0
    fault = r"short\.json, image 1, annotation 1: category 9 is not in the file's categories"
    assert len(re.findall(f"    .*{fault}; the file's ids are \\[1, 2, 3\\]", printed)) >= 3
    assert "train_net.py: the data have 1 errors" in printed
    assert "MODEL.ROI_HEADS.NUM_CLASSES is 3, inferred from my_split_train" in printed
    assert printed.count("Evaluation results for segm") == 2
    assert "unknown-category (1)" in (workplace / "output/short/data_problems.txt").read_text()


@pytest.mark.slow
def test_two_processes(workplace):
    """Files are written once; an error is one message, not one traceback per process."""
    commands = """
    mrcnn dataset convert labelme photos photos two.json
    python train_net.py --config-file $CONFIG --num-gpus 2 --dist-url auto \
        --train my=two.json:photos --val-fraction 0.4 OUTPUT_DIR output/two
    rm photos/00001.png
    ! python train_net.py --config-file $CONFIG --num-gpus 2 --dist-url auto \
        --train my=two.json:photos --val-fraction 0.4 OUTPUT_DIR output/two_bad 2> error.txt
    """
    picture = workplace / "photos/00001.png"
    content = picture.read_bytes()
    try:
        code, printed = run_commands(workplace, commands)
    finally:
        picture.write_bytes(content)
    assert code == 0, printed[-4000:]
    assert "World size: 2" in printed and "Evaluation results for segm" in printed
    assert printed.count("checked 'my_split_train'") == 2  # one process of each run logs it
    last = (workplace / "error.txt").read_text()
    assert "train_net.py: the data have 1 errors" in last
    assert "00001.png, image 1: the file does not exist" in last
