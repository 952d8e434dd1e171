"""Drawings of ground truth and predictions, and the image of a run."""

import json

import cv2
import numpy as np
import pytest
from builders import evaluate, forget, load_cfg, perfect_predictions
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from mrcnn_plugin.data import make_shapes
from mrcnn_plugin.errors import RunError
from mrcnn_plugin.evaluation import draw_comparison, draw_run
from mrcnn_plugin.evaluation.report.draw import draw_instances

BLUE = (0.0, 0.0, 1.0)


@pytest.fixture
def name(tmp_path):
    """A registered dataset of six drawn images of 128 pixels."""
    make_shapes(tmp_path / "shapes.json", 6, seed=3)
    register_coco_instances("draw_test", {}, str(tmp_path / "shapes.json"), str(tmp_path))
    yield "draw_test"
    forget("draw_test")


def compare(name, index=0, *, score=1.0, **options):
    """(dataset dict, drawn truth, drawn prediction) of an image whose predictions are perfect."""
    image = DatasetCatalog.get(name)[index]
    instances = perfect_predictions(name)[1][index]["instances"]
    instances.scores.fill_(score)
    return image, *draw_comparison(image, instances, MetadataCatalog.get(name), **options)


def test_both_drawings_show_something(name):
    image, *drawings = compare(name, scale=2)
    original = cv2.resize(cv2.imread(image["file_name"])[..., ::-1], (256, 256))
    for drawn in drawings:
        assert drawn.shape == (256, 256, 3)
        assert np.abs(drawn.astype(int) - original).mean() > 3


def test_low_scores_are_not_drawn(name):
    image, _, nothing = compare(name, score=0.1)
    _, _, everything = compare(name, score=0.1, min_score=0.05)
    blank = cv2.imread(image["file_name"])[..., ::-1]
    assert (
        np.abs(nothing.astype(int) - blank).mean() < np.abs(everything.astype(int) - blank).mean()
    )


@pytest.mark.parametrize("index", range(3))
def test_truth_and_prediction_have_the_same_colors(name, index):
    """Perfect predictions differ from the truth only in labels and at the edges of masks."""
    _, truth, prediction = compare(name, index, scale=4)
    masks = perfect_predictions(name)[1][index]["instances"].pred_masks.any(dim=0).numpy()
    inside = cv2.resize(masks.astype(np.uint8), (512, 512), interpolation=cv2.INTER_NEAREST) > 0
    equal = (truth == prediction).all(axis=2)
    assert equal[inside].mean() > 0.6


@pytest.mark.parametrize(
    "corner", [(0, 0), (92, 0), (0, 96), (92, 96), (99, 99), (99, 40)], ids=str
)
def test_labels_are_not_cut_off_at_the_edge(corner):
    """The label of an object anywhere covers as many pixels as that of one in the middle."""

    def label_pixels(x, y):
        black = np.zeros((100, 100, 3), np.uint8)
        options = {"masks": (), "colors": [BLUE], "scale": 4.0}
        box = [[x, y, x + 1, y + 1]]
        without = draw_instances(black, box, labels=[""], **options)
        drawn = draw_instances(black, box, labels=["triangle 98%"], **options)
        return (drawn != without).any(axis=2).sum()

    assert label_pixels(*corner) == pytest.approx(label_pixels(30, 30), rel=0.03)


def test_image_of_a_run(name, tmp_path):
    cfg = load_cfg("mask_rcnn_shapes_C4.yaml", "OUTPUT_DIR", str(tmp_path / "run"))
    cfg.DATASETS.TEST = (name,)
    with pytest.raises(RunError, match="has no predictions"):
        draw_run(cfg, tmp_path / "run.png")
    evaluate(name, perfect_predictions(name), tmp_path / "run/inference")
    losses = ("total_loss", "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask")
    lines = [{"iteration": i, **dict.fromkeys(losses, 1.0 / i)} for i in (1, 2, 3)]
    lines[-1].update({"segm/AP": 40.0, "bbox/AP": 50.0})
    (tmp_path / "run/metrics.json").write_text("\n".join(map(json.dumps, lines)))

    path = tmp_path / "images/run.png"
    summary = draw_run(cfg, path, num_images=4)
    assert summary == "6 held-out images: box AP 100.0, segm AP 100.0, after 4 iterations"
    image = np.asarray(Image.open(path).convert("RGB"))
    assert image.shape[1] > 800 and image.std() > 10
    assert path.stat().st_size < 300_000
