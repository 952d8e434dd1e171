"""Drawings of ground truth and predictions, and the image of a run."""

import json

import cv2
import numpy as np
import pytest
import torch
from builders import evaluate, forget, load_cfg, perfect_predictions
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, BoxMode, Instances
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


def test_classes_have_one_color_in_truth_and_prediction(tmp_path):
    """Two boxes of two classes on black: the fill of each is the same in both drawings."""
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((120, 240, 3), np.uint8))
    boxes = [[10.0, 30, 100, 110], [130.0, 30, 230, 110]]
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": c}
        for c, box in enumerate(boxes)
    ]
    for a, (x1, y1, x2, y2) in zip(annotations, boxes):
        a["segmentation"] = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    masks = torch.zeros(2, 120, 240, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = True
    instances = Instances((120, 240), pred_boxes=Boxes(torch.tensor(boxes)), pred_masks=masks)
    instances.pred_classes, instances.scores = torch.tensor([0, 1]), torch.tensor([0.9, 0.8])
    record = {"file_name": str(tmp_path / "black.png"), "annotations": annotations}
    drawn = draw_comparison(record, instances, Metadata(thing_classes=["a", "b"]))
    for x in (55, 180):
        truth, prediction = (image[100, x].astype(int) for image in drawn)
        assert truth.max() > 50 and np.abs(truth - prediction).max() <= 2
    assert np.abs(drawn[0][100, 55].astype(int) - drawn[0][100, 180]).max() > 50


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
