"""Both engines compute the same numbers, and what hotcoco computes in addition is right."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import ROOT, silent_coco
from pycocotools import mask as mask_utils
from pycocotools.cocoeval import COCOeval

from mrcnn_plugin.data.coco_file import make_evaluable
from mrcnn_plugin.errors import ConfigError, RunError
from mrcnn_plugin.evaluation.coco_eval import check_engine, run_coco_eval
from mrcnn_plugin.evaluation.diagnosis import error_kinds, image_aps, label_errors, of_each_class
from mrcnn_plugin.evaluation.hotcoco_eval import bootstrap, evaluate

MAX_DETS = [1, 10, 100]
NAN = float("nan")


@pytest.fixture(scope="module")
def generated():
    """20 generated images with 600 detections of 80 classes."""
    sys.path.append(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("_evaluation", ROOT / "benchmarks/evaluation.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    sys.path.pop()
    content, results = benchmark.generate(20, 600)
    assert {a["iscrowd"] for a in content["annotations"]} == {0, 1}
    return content, results


def as_is(content, results):
    return content, results


def no_objects(content, results):
    return {**content, "annotations": []}, results


def crowds_only(content, results):
    annotations = [{**a, "iscrowd": 1} for a in content["annotations"]]
    return {**content, "annotations": annotations}, results


def duplicated(content, results):
    last = len(content["annotations"])
    annotations = [*content["annotations"]]
    annotations += [{**a, "id": a["id"] + last} for a in annotations]
    return {**content, "annotations": annotations}, results + results


def equal_scores(content, results):
    return content, [{**result, "score": 0.5} for result in results]


def tiny(content, results):
    """All objects and detections have one pixel or none."""

    def shrunk(record, number):
        mask = np.zeros((480, 640), np.uint8, order="F")
        mask[number % 3, : number % 2] = 1
        rle = mask_utils.encode(mask)
        area = int(mask.sum())
        box = [0, number % 3, area, area]
        rle = {"size": rle["size"], "counts": rle["counts"].decode()}
        return {**record, "segmentation": rle, "bbox": box}

    annotations = [
        {**shrunk(a, n), "area": n % 2, "category_id": 1}
        for n, a in enumerate(content["annotations"])
    ]
    results = [{**shrunk(r, n), "category_id": 1} for n, r in enumerate(results)]
    return {**content, "annotations": annotations}, results


def ties(content, results):
    """Squares on a grid, so that IoUs equal thresholds and areas equal limits exactly."""
    random = np.random.default_rng(0)

    def on_grid(record):
        x, y = (32 * random.integers(0, 4, 2)).tolist()
        w, h = (32 * random.integers(0, 4, 2)).tolist()
        mask = np.zeros((480, 640), np.uint8, order="F")
        mask[y : y + h, x : x + w] = 1
        rle = mask_utils.encode(mask)
        rle = {"size": rle["size"], "counts": rle["counts"].decode()}
        box = {"bbox": [x, y, w, h], "segmentation": rle, "category_id": 1}
        return {**record, **box, **({"area": w * h} if "area" in record else {})}

    results = [{**on_grid(r), "score": random.integers(0, 4) / 4} for r in results]
    return {**content, "annotations": [*map(on_grid, content["annotations"])]}, results


def ids_as_text(content, results):
    def changed(record):
        return {**record, "image_id": str(record["image_id"])}

    images = [{**image, "id": str(image["id"])} for image in content["images"]]
    annotations = [changed(a) for a in content["annotations"]]
    return {**content, "images": images, "annotations": annotations}, [*map(changed, results)]


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize(
    ("change", "options"),
    [
        (as_is, {}),
        (as_is, {"max_dets": [1, 5, 20]}),
        (as_is, {"image_ids": [19, 3, 10, 3]}),  # 10 has no object
        *((case, {}) for case in (no_objects, crowds_only, duplicated, equal_scores)),
        *((case, {}) for case in (tiny, ties, ids_as_text)),
    ],
)
def test_engines_print_and_return_the_same(generated, capsys, task, change, options):
    content, results = change(*generated)
    found, printed = [], []
    for engine in ("pycocotools", "hotcoco"):
        truth, copies = silent_coco(content), [dict(r) for r in results]
        options = {"max_dets": MAX_DETS, **options}
        found.append(run_coco_eval(truth, copies, task, engine=engine, **options))
        lines = re.findall(r"^ Average .*$", capsys.readouterr().out, re.MULTILINE)
        printed.append([" ".join(line.split()) for line in lines])  # columns differ in width
    reference, fast = found
    assert printed[0] == printed[1] and len(printed[0]) == 12
    np.testing.assert_array_equal(fast.stats, reference.stats, strict=True)
    for name in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(fast.eval[name], reference.eval[name], strict=True)
    assert np.array_equal(fast.iou_thresholds, reference.iou_thresholds)
    assert np.array_equal(fast.recall_thresholds, reference.recall_thresholds)


def test_keypoints_are_equal_too(generated):
    content, results = generated
    random = np.random.default_rng(0)

    def with_keypoints(record):
        x, y, w, h = record["bbox"]
        visible = random.integers(0, 3, 17)
        places = np.linspace(0, 1, 17) + random.normal(0, 0.02, (2, 17))
        points = np.stack([x + w * places[0], y + h * places[1], visible], 1)
        count = {"num_keypoints": int((visible > 0).sum())}
        return {**record, "category_id": 1, "keypoints": points.ravel().tolist(), **count}

    content = {**content, "annotations": [*map(with_keypoints, content["annotations"])]}
    results = [*map(with_keypoints, results)]
    options = {"max_dets": MAX_DETS, "oks_sigmas": tuple(np.linspace(0.02, 0.1, 17))}
    reference, fast = (
        run_coco_eval(silent_coco(content), results, "keypoints", engine=engine, **options)
        for engine in ("pycocotools", "hotcoco")
    )
    assert 0 < reference.stats[0] < 1
    assert np.array_equal(fast.stats, reference.stats)
    assert np.array_equal(fast.eval["precision"], reference.eval["precision"])


def test_engines_that_cannot_be_used(monkeypatch):
    with pytest.raises(
        ConfigError, match=r"TEST\.COCO_EVAL is 'fast'; expected pycocotools or hot"
    ):
        check_engine("fast")
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(RunError, match=r"Run: pip install hotcoco==") as raised:
        check_engine("pycocotools")
    pinned = str(raised.value).split("pip install ")[1]
    for file in ("pyproject.toml", "requirements.txt"):
        assert pinned in Path(ROOT, file).read_text(), file


@pytest.mark.parametrize("engine", ["pycocotools", "hotcoco"])
@pytest.mark.parametrize(
    ("task", "annotation", "result", "message"),
    [
        ("bbox", {"area": None}, {}, r"Annotation 5 has the area None\. COCO's .* needs a number"),
        ("segm", {"area": NAN}, {}, "Annotation 5 has the area nan"),
        ("segm", {"iscrowd": None}, {}, "Annotation 5 has the iscrowd None"),
        ("bbox", {"bbox": [1, NAN, 2, 3]}, {}, "An annotation of image 2 has a box with NaN"),
        ("bbox", {}, {"image_id": 999}, "of image 999, which the dataset does not have"),
        ("segm", {}, {"score": NAN}, "A prediction of image 1 has the score NaN"),
        ("bbox", {}, {"bbox": [1, NAN, 2, 3]}, "A prediction of image 1 has a box with NaN"),
        ("keypoints", {}, {}, "A prediction of image 1 has no keypoints"),
    ],
)
def test_input_that_engines_treat_differently_is_an_error(
    generated, engine, task, annotation, result, message
):
    content, results = generated
    annotations, results = content["annotations"][:9], results[:9]
    annotations = [{**a, **(annotation if a["id"] == 5 else {})} for a in annotations]
    results = [{**r, **(result if number == 4 else {})} for number, r in enumerate(results)]
    truth = silent_coco({**content, "annotations": annotations})
    with pytest.raises(RunError, match=message):
        run_coco_eval(truth, results, task, max_dets=MAX_DETS, engine=engine)


def noisy_results(truth):
    """Two shifted detections per annotation, some of them of another class."""
    random = np.random.default_rng(0)
    categories, results = sorted(truth.cats), []
    for annotation in 2 * truth.dataset["annotations"]:
        mask = truth.annToMask(annotation)
        far = 2 if random.random() < 0.2 else 0.08
        shift = random.normal(0, far, 2) * annotation["bbox"][:1:-1]
        rle = mask_utils.encode(np.asfortranarray(np.roll(mask, shift.astype(int), (0, 1))))
        wrong = random.random() < 0.2
        category = int(random.choice(categories)) if wrong else annotation["category_id"]
        results.append(
            {
                "image_id": annotation["image_id"],
                "category_id": category,
                "bbox": mask_utils.toBbox(rle).tolist(),
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                "score": float(random.random()),
            }
        )
    return results


def real_images_and_results(folder, name):
    file = folder / name
    if not file.exists():
        pytest.skip(f"there is no {file}: set MRCNN_TEST_DATA (see docs/training.md)")
    truth = silent_coco(make_evaluable(json.loads(file.read_text())))
    return truth, noisy_results(truth)


COCO_TINY = "coco_tiny/annotations/instances_val2017.json"


@pytest.fixture
def coco_images(real_images):
    """(pycocotools' object of 50 images of COCO, noisy detections)."""
    return real_images_and_results(real_images, COCO_TINY)


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("name", [COCO_TINY, "fruits_nuts/trainval.json"])
def test_engines_agree_on_real_images(real_images, name, task):
    truth, results = real_images_and_results(real_images, name)
    reference, fast = (
        run_coco_eval(truth, [dict(r) for r in results], task, max_dets=MAX_DETS, engine=engine)
        for engine in ("pycocotools", "hotcoco")
    )
    assert 0.1 < reference.stats[0] < 1
    np.testing.assert_array_equal(fast.stats, reference.stats, strict=True)
    for name in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(fast.eval[name], reference.eval[name], strict=True)


def pycocotools_eval(truth, results, task, image_ids=None):
    skipped = "bbox" if task == "segm" else ""
    results = [{k: v for k, v in r.items() if k != skipped} for r in results]
    coco_eval = COCOeval(truth, truth.loadRes(results), task)
    coco_eval.params.imgIds = image_ids or coco_eval.params.imgIds
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    return coco_eval


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_diagnosis_of_real_images_agrees_with_pycocotools(coco_images, task):
    truth, results = coco_images
    details = evaluate(truth, results, task, max_dets=MAX_DETS)
    reference = pycocotools_eval(truth, results, task)
    num_images, num_areas = len(reference.params.imgIds), len(reference.params.areaRng)
    expected = {category: [] for category in details.category_ids}
    for position, image in enumerate(reference.evalImgs):
        if image and (position // num_images) % num_areas == 0:
            kept = ~image["dtIgnore"][0].astype(bool)
            correct = image["dtMatches"][0][kept] > 0
            expected[image["category_id"]] += zip(np.array(image["dtScores"])[kept], correct)
    for category, (scores, correct, count) in zip(expected, of_each_class(details)):
        assert sorted(zip(scores, correct)) == sorted(expected[category])
        ids = truth.getAnnIds(catIds=[category], iscrowd=False)
        assert count == len(ids)

    for image_id, ap in image_aps(details)[:10]:
        alone = 100 * pycocotools_eval(truth, results, task, [image_id]).stats[0]
        assert alone == (-100 if ap is None else pytest.approx(ap))

    found = details.coco_eval.tide_errors()
    assert found["ap_base"] == pytest.approx(reference.stats[1])
    count = dict(zip(error_kinds(details)["kinds"], error_kinds(details)["count"]))
    false = sum(not correct for of_class in expected.values() for _, correct in of_class)
    assert sum(count.values()) - count["Miss"] == false


def test_label_errors_of_real_images_contradict_the_labels(coco_images):
    truth, results = coco_images
    details = evaluate(truth, results, "segm", max_dets=MAX_DETS)
    names = [truth.cats[i]["name"] for i in details.category_ids]
    errors = label_errors(details, names)
    assert {error["kind"] for error in errors} == {"class", "missing"}
    assert [e["score"] for e in errors] == sorted((e["score"] for e in errors), reverse=True)
    for error in errors:
        labels = [a for a in truth.imgToAnns[error["image_id"]] if not a["iscrowd"]]
        boxes = [a["bbox"] for a in labels]
        ious = mask_utils.iou([error["bbox"]], boxes, [0] * len(boxes))[0]
        there = {truth.cats[a["category_id"]]["name"] for a, i in zip(labels, ious) if i >= 0.5}
        if error["kind"] == "missing":
            assert not there and error["labelled"] is None
        else:
            assert error["labelled"] in there and error["labelled"] != error["predicted"]


def test_interval_of_a_difference_contains_it(coco_images):
    truth, results = coco_images
    worse = [r for number, r in enumerate(results) if number % 5]
    first, other, same = (
        evaluate(truth, r, "segm", max_dets=MAX_DETS) for r in (results, worse, results)
    )
    intervals = bootstrap(first, other, 100)
    stats = [pycocotools_eval(truth, r, "segm").stats for r in (results, worse)]
    for position, name in enumerate(("AP", "AP50", "AP75", "APs", "APm", "APl")):
        interval = intervals[name]
        assert interval["difference"] == pytest.approx(100 * (stats[1] - stats[0])[position])
        assert interval["lower"] <= interval["difference"] <= interval["upper"]
    assert intervals == bootstrap(first, other, 100)
    nothing = bootstrap(first, same, 100)["AP"]
    assert (nothing["lower"], nothing["difference"], nothing["upper"]) == (0, 0, 0)
