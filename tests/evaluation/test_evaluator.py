"""COCO evaluation of faulty json files, and its analysis."""

import json

import numpy as np
import pytest
from builders import evaluate, forget, perfect_predictions
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import coco_evaluation
from pycocotools.cocoeval import COCOeval

from mrcnn_plugin.data import make_shapes
from mrcnn_plugin.evaluation import AnalysingCOCOEvaluator
from mrcnn_plugin.evaluation.analysis import load_analysis


@pytest.fixture
def dataset(tmp_path):
    """`register(change)` registers drawn shapes after applying `change` to their json."""
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


def test_voc_annotations_numbered_from_0_become_usable(real_images, tmp_path):
    """A real file with annotation id 0: stock COCOEvaluator gives perfect detections 94.9."""
    root = real_images / "labelme_voc3/data_dataset_coco"
    name = "labelme_voc3_test"
    register_coco_instances(name, {}, str(root / "annotations.json"), str(root))
    try:
        coco = AnalysingCOCOEvaluator(name, output_dir=str(tmp_path), distributed=False)._coco_api
        assert min(coco.getAnnIds()) == 1
        results = coco.loadRes([{**a, "score": 1.0} for a in coco.dataset["annotations"]])
        assert len(results.getAnnIds()) == 12
    finally:
        forget(name)


def test_one_missed_object_lowers_the_recall(dataset, tmp_path):
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


class EmptyCOCOeval(COCOeval):
    """Stands for detectron2's compiled `COCOeval_opt`, which never fills `evalImgs`."""

    def evaluate(self):
        super().evaluate()
        self._kept = self.evalImgs
        self.evalImgs = {}

    def accumulate(self, p=None):
        self.evalImgs = self._kept
        super().accumulate(p)
        self.evalImgs = {}


def test_analysis_is_complete_with_a_compiled_detectron2(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(coco_evaluation, "COCOeval_opt", EmptyCOCOeval)
    name = dataset()
    evaluate(name, perfect_predictions(name), tmp_path)
    analysis = load_analysis(tmp_path)
    images = {image["image_id"] for image in DatasetCatalog.get(name)}
    assert analysis["images"] == dict.fromkeys(images, pytest.approx(100))
    num_instances = sum(len(image["annotations"]) for image in DatasetCatalog.get(name))
    assert sum(analysis["calibration"]["count"]) == num_instances
    assert analysis["pr"]["segm"]["precision"][0] == [1.0] * 101


def test_an_error_of_the_analysis_is_not_swallowed(dataset, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("analysis failed")

    monkeypatch.setattr("mrcnn_plugin.evaluation.evaluator.analyse", fail)
    name = dataset()
    with pytest.raises(RuntimeError, match="analysis failed"):
        evaluate(name, perfect_predictions(name), tmp_path)


def test_the_json_file_is_not_changed(dataset, tmp_path):
    name = dataset(numbered_from_0)
    before = (tmp_path / f"{name}.json").read_bytes()
    evaluate(name, perfect_predictions(name), tmp_path / "out")
    assert (tmp_path / f"{name}.json").read_bytes() == before
