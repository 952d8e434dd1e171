"""COCO evaluation of faulty json files and by other engines, and drawings of predictions."""

import json
import sys
from collections import defaultdict

import cv2
import numpy as np
import pytest
import torch
from builders import evaluate, forget, perfect_predictions
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools.cocoeval import COCOeval

from mrcnn_plugin.data import make_shapes
from mrcnn_plugin.evaluation import AnalysingCOCOEvaluator, draw_comparison, save_run_image
from mrcnn_plugin.evaluation.analysis import load_analysis


@pytest.fixture
def dataset(tmp_path):
    """`register(change)` registers drawn shapes whose json `change` has been applied to."""
    names = []

    def register(change=lambda content: None):
        name = f"evaluation_test_{len(names)}"
        make_shapes(tmp_path / f"{name}.json", 6, seed=3)
        content = json.loads((tmp_path / f"{name}.json").read_text())
        change(content)
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        register_coco_instances(name, {}, str(tmp_path / f"{name}.json"), str(tmp_path))
        names.append(name)
        return name

    yield register
    forget(*names)


def without_info(content):
    del content["info"], content["licenses"]


def numbered_from_0(content):
    for new_id, annotation in enumerate(content["annotations"]):
        annotation["id"] = new_id


@pytest.mark.parametrize("fault", [lambda c: None, without_info, numbered_from_0])
def test_perfect_detections_score_100(dataset, tmp_path, fault):
    name = dataset(fault)
    results = evaluate(name, perfect_predictions(name), tmp_path / "out")
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)


def test_the_voc_photographs_numbered_from_0_score_100(photographs, tmp_path):
    """A real file with annotation id 0: stock COCOEvaluator gives perfect detections 94.9."""
    root = photographs / "labelme_voc3/data_dataset_coco"
    name = "labelme_voc3_test"
    register_coco_instances(name, {}, str(root / "annotations.json"), str(root))
    try:
        coco = AnalysingCOCOEvaluator(name, output_dir=str(tmp_path), distributed=False)._coco_api
        assert min(coco.getAnnIds()) == 1
        results = coco.loadRes([{**a, "score": 1.0} for a in coco.dataset["annotations"]])
        assert len(results.getAnnIds()) == 12
    finally:
        forget(name)


def test_one_missed_object_costs_what_coco_says(dataset, tmp_path):
    """A class with n objects of which one is missed has recall (n-1)/n, hence AP of about that."""
    name = dataset()
    inputs, outputs = perfect_predictions(name)
    first = outputs[0]["instances"]
    missed_class = first.pred_classes[0].item()
    total = sum((o["instances"].pred_classes == missed_class).sum().item() for o in outputs)
    outputs[0] = {"instances": first[1:]}
    results = evaluate(name, (inputs, outputs), tmp_path)
    class_name = MetadataCatalog.get(name).thing_classes[missed_class]
    # COCO reads precision at 101 recalls 0, 0.01, ..., 1; it is 1 up to (n-1)/n and 0 beyond.
    reached = np.sum(np.linspace(0, 1, 101) <= (total - 1) / total + 1e-9)
    assert results["segm"][f"AP-{class_name}"] == pytest.approx(100 * reached / 101)


class WithoutMatches(COCOeval):
    """As detectron2's compiled COCOeval_opt, which leaves `evalImgs` as it was constructed."""

    def accumulate(self, p=None):
        super().accumulate(p)
        self.evalImgs = defaultdict(list)


def test_the_analysis_does_not_depend_on_the_engine(dataset, tmp_path, monkeypatch):
    name = dataset()
    inputs, outputs = perfect_predictions(name)
    outputs[0] = {"instances": outputs[0]["instances"][1:]}
    evaluate(name, (inputs, outputs), tmp_path / "pycocotools")
    module = sys.modules[AnalysingCOCOEvaluator.__mro__[1].__module__]
    monkeypatch.setattr(module, "COCOeval", WithoutMatches)
    monkeypatch.setattr(module, "COCOeval_opt", WithoutMatches)
    evaluate(name, (inputs, outputs), tmp_path / "other")
    expected = load_analysis(tmp_path / "pycocotools")
    assert sum(expected["calibration"]["count"]) > 0 and len(expected["images"]) == 6
    assert load_analysis(tmp_path / "other") == expected


def test_an_error_in_the_analysis_is_not_swallowed(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("mrcnn_plugin.evaluation.evaluator.analyse", lambda *args: 1 / 0)
    name = dataset()
    with pytest.raises(ZeroDivisionError):
        evaluate(name, perfect_predictions(name), tmp_path)


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


def test_labels_at_the_edges_are_not_cut_off(tmp_path):
    """The label of a box in the lower right corner has as many text pixels as one in the middle."""
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((240, 480, 3), np.uint8))

    def drawn(x, y):
        instances = Instances((240, 480), pred_boxes=Boxes(torch.tensor([[x, y, x + 9, y + 9]])))
        instances.pred_classes, instances.scores = torch.tensor([0]), torch.tensor([0.9])
        record = {"file_name": str(tmp_path / "black.png"), "annotations": []}
        label = Metadata(thing_classes=["a long name"])
        image = draw_comparison(record, instances, label)[1]
        return (image.max(axis=2) > 40).sum()

    middle = drawn(150.0, 120.0)
    for x, y in ((470.0, 230.0), (470.0, 0.0), (0.0, 230.0), (0.0, 0.0)):
        assert drawn(x, y) > 0.9 * middle


def test_picture_of_a_run(dataset, tmp_path):
    name = dataset()
    images = DatasetCatalog.get(name)
    _, outputs = perfect_predictions(name)
    pairs = [
        draw_comparison(image, output["instances"], MetadataCatalog.get(name), scale=2)
        for image, output in zip(images, outputs)
    ]
    photograph = cv2.resize(cv2.imread(images[0]["file_name"])[..., ::-1], (256, 256))
    for drawn in pairs[0]:
        assert drawn.shape == (256, 256, 3)
        assert np.abs(drawn.astype(int) - photograph).mean() > 3  # something is drawn on it
    losses = ("total_loss", "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask")
    lines = [{"iteration": i, **dict.fromkeys(losses, 1.0 / i)} for i in (1, 2, 3)]
    lines[-1].update({"segm/AP": 40.0, "bbox/AP": 50.0})
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    save_run_image(tmp_path / "pictures/run.png", pairs, tmp_path / "metrics.json", "a run")
    picture = cv2.imread(str(tmp_path / "pictures/run.png"))
    assert picture.shape[1] > 800 and picture.std() > 10


def test_low_scores_are_not_drawn(dataset):
    name = dataset()
    (image, *_), (_, (output, *_)) = DatasetCatalog.get(name), perfect_predictions(name)
    metadata = MetadataCatalog.get(name)
    output["instances"].scores.fill_(0.1)
    _, nothing = draw_comparison(image, output["instances"], metadata)
    _, everything = draw_comparison(image, output["instances"], metadata, min_score=0.05)
    blank = cv2.imread(image["file_name"])[..., ::-1]
    assert (
        np.abs(nothing.astype(int) - blank).mean() < np.abs(everything.astype(int) - blank).mean()
    )
