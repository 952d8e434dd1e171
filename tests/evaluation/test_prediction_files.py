"""Evaluation in one process from predictions on disk, compared with detectron2's evaluator."""

import json
import os
import resource
import tracemalloc
from pathlib import Path

import pytest
import torch
from builders import evaluate, forget, noisy_predictions
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from mrcnn_plugin.data import make_shapes
from mrcnn_plugin.errors import RunError
from mrcnn_plugin.evaluation import AnalysingCOCOEvaluator
from mrcnn_plugin.evaluation.analysis import RESULTS_FILE, load_analysis
from mrcnn_plugin.evaluation.prediction_files import PredictionWriter, read_lines, write_results

NAME = "prediction_files_test"


@pytest.fixture(autouse=True)
def drawn(tmp_path):
    make_shapes(tmp_path / "shapes.json", 7, seed=3)
    content = json.loads((tmp_path / "shapes.json").read_text())
    for category in content["categories"]:  # category ids that are no class indices
        category["id"] = 10 * category["id"] + 3
    for annotation in content["annotations"]:
        annotation["category_id"] = 10 * annotation["category_id"] + 3
    (tmp_path / "shapes.json").write_text(json.dumps(content))
    register_coco_instances(NAME, {}, str(tmp_path / "shapes.json"), str(tmp_path))
    yield
    forget(NAME)


def without_masks(outputs):
    for output in outputs:
        output["instances"].remove("pred_masks")


def without_any(outputs):
    for output in outputs:
        output["instances"] = output["instances"][:0]


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (lambda outputs: None, {}),
        (lambda outputs: None, {"tasks": ("bbox",)}),
        (lambda outputs: None, {"tasks": ("segm", "bbox"), "max_dets_per_image": 3}),
        (without_masks, {}),
        (without_any, {}),
    ],
)
def test_everything_is_equal_to_detectron2s_evaluation(tmp_path, change, options):
    inputs, outputs = noisy_predictions(NAME)
    change(outputs)
    stock = COCOEvaluator(
        NAME, distributed=False, output_dir=str(tmp_path / "a"), use_fast_impl=False, **options
    )
    ours, fast = (
        AnalysingCOCOEvaluator(
            NAME, distributed=False, output_dir=str(tmp_path / name), engine=engine, **options
        )
        for name, engine in (("b", "pycocotools"), ("c", "hotcoco"))
    )
    for evaluator in (stock, ours, fast):
        evaluator.reset()
        for input_, output in zip(inputs, outputs):
            evaluator.process([input_], [output])
    expected, results = stock.evaluate(), ours.evaluate()
    assert repr(results) == repr(expected)  # NaN is equal to NaN
    assert repr(fast.evaluate()) == repr(expected)
    assert (tmp_path / "b" / RESULTS_FILE).read_bytes() == (
        tmp_path / "a" / RESULTS_FILE
    ).read_bytes()
    analysis = load_analysis(tmp_path / "b")
    if change is without_any:
        assert analysis is None
        return
    assert repr(load_analysis(tmp_path / "c")) == repr(analysis)
    assert repr(ours.evaluate()) == repr(expected)  # a second call evaluates again
    assert repr(ours.evaluate_saved()) == repr(expected)


def test_the_order_and_repetition_of_images_do_not_matter(tmp_path):
    inputs, outputs = noisy_predictions(NAME)
    expected = evaluate(NAME, (inputs, outputs), tmp_path / "a")
    order = [3, 0, 6, 6, 1, 5, 0, 2, 4]
    shuffled = [inputs[i] for i in order], [outputs[i] for i in order]
    assert repr(evaluate(NAME, shuffled, tmp_path / "b")) == repr(expected)
    files = [(tmp_path / folder / RESULTS_FILE).read_bytes() for folder in "ab"]
    assert files[0] == files[1]


def test_only_the_final_files_remain(tmp_path):
    evaluate(NAME, noisy_predictions(NAME), tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["analysis.json", RESULTS_FILE]


def test_reset_removes_what_killed_processes_left(tmp_path):
    for rank in (0, 1, 12):
        (tmp_path / f"predictions_rank{rank}_0abc_x1").mkdir()
        (tmp_path / f"predictions_rank{rank}_0abc_x1" / "predictions.jsonl").touch()
    (tmp_path / "predictions_rank0.json").touch()
    AnalysingCOCOEvaluator(NAME, output_dir=str(tmp_path)).reset()
    left = [path.name for path in tmp_path.glob("predictions*")]
    assert left == ["predictions_rank0.json"]


def test_without_an_output_folder_nothing_remains(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    evaluator = AnalysingCOCOEvaluator(NAME, distributed=False)
    evaluator.reset()
    predictions = noisy_predictions(NAME)  # the dataset is loaded after the evaluator was created
    evaluator.process(*predictions)
    results = evaluator.evaluate()
    assert repr(results) == repr(evaluate(NAME, predictions, tmp_path / "out"))
    del evaluator
    assert os.listdir(tmp_path / "tmp") == []


def test_box_proposals_are_evaluated_as_by_detectron2(tmp_path):
    inputs, outputs = noisy_predictions(NAME)
    for output in outputs:
        instances = output.pop("instances")
        output["proposals"] = Instances(
            instances.image_size,
            proposal_boxes=instances.pred_boxes,
            objectness_logits=instances.scores,
        )
    found = []
    for cls, folder in ((COCOEvaluator, "a"), (AnalysingCOCOEvaluator, "b")):
        evaluator = cls(NAME, distributed=False, output_dir=str(tmp_path / folder))
        evaluator.reset()
        evaluator.process(inputs, outputs)
        found.append(evaluator.evaluate())
    assert repr(found[0]) == repr(found[1]) and "AR@100" in found[1]["box_proposals"]


def test_no_predictions(tmp_path, caplog):
    assert evaluate(NAME, ([], []), tmp_path) == {}
    assert "did not receive predictions" in caplog.text


def test_a_class_that_the_dataset_lacks_is_an_error(tmp_path):
    DatasetCatalog.get(NAME)  # sets the classes
    instances = Instances((8, 8), pred_boxes=Boxes(torch.ones(1, 4)), scores=torch.ones(1))
    instances.pred_classes = torch.tensor([80])
    with pytest.raises(RunError, match=r"class 80, but .* has only \d+ classes. Set MODEL"):
        evaluate(NAME, ([{"image_id": 1}], [{"instances": instances}]), tmp_path)


@pytest.fixture
def limit_file_size():
    """`limit_file_size(n)`: writes beyond n bytes of a file fail, as they do on a full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_a_full_disk_is_one_error_and_leaves_the_old_results(tmp_path, limit_file_size):
    inputs, outputs = noisy_predictions(NAME)
    evaluate(NAME, (inputs, outputs), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*results.json")}
    evaluator = AnalysingCOCOEvaluator(NAME, output_dir=str(tmp_path), distributed=False)
    for limit, file in ((1000, "predictions.jsonl"), (None, RESULTS_FILE)):
        evaluator.reset()
        evaluator.process(inputs, outputs)
        if limit is None:  # room for the predictions only
            evaluator._writer.flush()
            limit = 1000
        limit_file_size(limit)
        with pytest.raises(RunError, match=rf"{file}.* \(File too large\). Free space"):
            evaluator.evaluate()
        limit_file_size(resource.RLIM_INFINITY)
        assert {p.name: p.read_bytes() for p in tmp_path.glob("*results*")} == before
        assert not [*tmp_path.glob("predictions*")] and not [*tmp_path.glob("*.unfinished")]


def test_a_vanished_folder_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot write .*file/out"):
        evaluate(NAME, noisy_predictions(NAME), tmp_path / "file/out")


def test_results_of_no_image_and_of_empty_images(tmp_path):
    writer = PredictionWriter(str(tmp_path))
    for image_id, results in ((2, []), (1, [{"x": 1}, {"x": 2}]), (3, [{"x": 3}])):
        writer.write(image_id, results)
    writer.flush()
    lines = [*read_lines([writer.part()])]
    assert lines == [b'[{"x": 1}, {"x": 2}]', b"[]", b'[{"x": 3}]']
    for content, expected in (
        (lines, '[{"x": 1}, {"x": 2}, {"x": 3}]'),
        ([b"[]", b"[]"], "[]"),
        ([], "[]"),
    ):
        write_results(content, Path(tmp_path, "results.json"))
        assert (tmp_path / "results.json").read_text() == expected


def test_memory_of_a_process_does_not_grow_with_the_detections(tmp_path):
    """200 images with the masks of 40 objects are 8,000 dicts of about 800 bytes."""
    _, outputs = noisy_predictions(NAME)
    instances = Instances.cat([o["instances"] for o in outputs for _ in range(10)])[:40]
    grown = {}
    for cls in (COCOEvaluator, AnalysingCOCOEvaluator):
        evaluator = cls(NAME, distributed=False, output_dir=str(tmp_path))
        evaluator.reset()
        tracemalloc.start()
        for image_id in range(200):
            evaluator.process([{"image_id": image_id}], [{"instances": instances}])
        grown[cls] = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert grown[COCOEvaluator] > 6e6
    assert grown[AnalysingCOCOEvaluator] < 2.5e6  # the buffer of 1 MiB and its growth
