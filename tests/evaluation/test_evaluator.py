"""COCO evaluation of faulty json files, and the picture of a run."""

import json

import cv2
import numpy as np
import pytest
from builders import evaluate, forget, perfect_predictions
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from mrcnn_plugin.data import make_shapes
from mrcnn_plugin.evaluation import MendingCOCOEvaluator, draw_comparison, save_run_picture


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
        coco = MendingCOCOEvaluator(name, output_dir=str(tmp_path), distributed=False)._coco_api
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
    save_run_picture(tmp_path / "pictures/run.png", pairs, tmp_path / "metrics.json", "a run")
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
