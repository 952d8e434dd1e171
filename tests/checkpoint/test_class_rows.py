"""Rows of the predictors go to the class of the same name; every other row starts anew."""

import logging
import pickle

import numpy as np
import pytest
import torch
from builders import tiny_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from mrcnn_plugin.checkpoint.class_rows import describe_rows, match_names
from mrcnn_plugin.checkpoint.model_file import write_model_file
from mrcnn_plugin.engine import ReportingCheckpointer

BOX, MASK = "roi_heads.box_predictor", "roi_heads.mask_head.predictor"


def model_of(num_classes, *opts):
    torch.manual_seed(num_classes)
    return build_model(tiny_cfg("MODEL.ROI_HEADS.NUM_CLASSES", num_classes, *opts))


def load(model, path, names):
    """Load as a training does at its start; returns what was logged."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("fvcore.common.checkpoint")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    checkpointer = ReportingCheckpointer(model)
    checkpointer.class_names = names
    checkpointer.resume_or_load(str(path), resume=False)
    logger.removeHandler(handler)
    return "\n".join(lines)


def rows(state, index):
    """All numbers that belong to one class."""
    boxes = slice(4 * index, 4 * index + 4)
    return torch.cat(
        [
            *(state[f"{BOX}.cls_score.{kind}"][index].flatten() for kind in ("weight", "bias")),
            *(state[f"{BOX}.bbox_pred.{kind}"][boxes].flatten() for kind in ("weight", "bias")),
            *(state[f"{MASK}.{kind}"][index].flatten() for kind in ("weight", "bias")),
        ]
    )


def background(state):
    return torch.cat(
        [state[f"{BOX}.cls_score.{kind}"][-1].flatten() for kind in ("weight", "bias")]
    )


def randomized(num_classes, *opts):
    """A state dict without two equal numbers; a new predictor's biases are all 0."""
    state = model_of(num_classes, *opts).state_dict()
    return {n: torch.randn_like(t) if t.is_floating_point() else t for n, t in state.items()}


@pytest.fixture(params=["model_final.pth", "model_final.safetensors"])
def own_file(request, tmp_path):
    """A model file of the classes hazel_nut, Date and fig."""
    if request.param.endswith(".safetensors"):
        pytest.importorskip("safetensors", reason="pip install safetensors to run this test")
    weights = randomized(3)
    path = tmp_path / request.param
    write_model_file(path, weights, {"class_names": ["hazel_nut", "Date", "fig"]})
    return path, weights


def test_names_match_exactly_then_loosely_and_once():
    assert match_names(["b", "a"], ["a", "b", "c"]) == [1, 0, None]
    assert match_names(["traffic light"], ["Traffic_Light"]) == [0]
    assert match_names(["Apple", "apple"], ["apple", "APPLE", "aPPLE"]) == [1, 0, None]
    assert match_names(["a", "a"], ["a", "b"]) == [0, None]
    assert match_names([], ["a"]) == [None]


def test_another_number_of_classes(own_file):
    path, old = own_file
    model = model_of(5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    log = load(model, path, ["fig", "pear", "hazel nut", "date", "apple"])
    new = model.state_dict()
    for to, start in ((0, 2), (2, 0), (3, 1)):
        torch.testing.assert_close(rows(new, to), rows(old, start), rtol=0, atol=0)
    for index in (1, 4):
        torch.testing.assert_close(rows(new, index), rows(before, index), rtol=0, atol=0)
    torch.testing.assert_close(background(new), background(old), rtol=0, atol=0)
    torch.testing.assert_close(new["backbone.stem.conv1.weight"], old["backbone.stem.conv1.weight"])
    assert "The weight file has 3 classes, the model 5" in log
    assert "copied for 3 classes (fig, hazel nut (from 'hazel_nut'), date (from 'Date'))" in log
    assert "those of 2 classes (pear, apple) start anew" in log
    assert "does not belong" not in log


def test_the_same_number_of_other_classes_does_not_take_over_wrong_rows(own_file):
    path, old = own_file
    model = model_of(3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load(model, path, ["fig", "Date", "kiwi"])
    new = model.state_dict()
    for to, start in ((0, 2), (1, 1)):
        torch.testing.assert_close(rows(new, to), rows(old, start), rtol=0, atol=0)
    torch.testing.assert_close(rows(new, 2), rows(before, 2), rtol=0, atol=0)


@pytest.mark.parametrize("names", [["hazel_nut", "Date", "fig"], None])
def test_the_same_or_unknown_classes_are_loaded_as_they_are(own_file, names):
    path, old = own_file
    model = model_of(3)
    log = load(model, path, names)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, old[name], rtol=0, atol=0)
    assert "Rows of" not in log


def test_a_file_without_names_is_loaded_as_it_is(tmp_path):
    old = randomized(2)
    torch.save({"model": old, "class_names": ["class 0", "class 1"]}, tmp_path / "unnamed.pth")
    model = model_of(2)
    assert "Rows of" not in load(model, tmp_path / "unnamed.pth", ["a", "b"])
    torch.testing.assert_close(rows(model.state_dict(), 1), rows(old, 1), rtol=0, atol=0)


def test_predictors_without_classes_are_unchanged(tmp_path):
    opts = ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
    opts += ("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True)
    old = randomized(3, *opts)
    torch.save({"model": old, "class_names": ["a", "b", "c"]}, tmp_path / "old.pth")
    model = model_of(2, *opts)
    load(model, tmp_path / "old.pth", ["c", "d"])
    new = model.state_dict()
    for name in (f"{BOX}.bbox_pred.weight", f"{MASK}.weight"):
        torch.testing.assert_close(new[name], old[name], rtol=0, atol=0)
    scores = f"{BOX}.cls_score.weight"
    torch.testing.assert_close(new[scores][[0, 2]], old[scores][[2, 3]], rtol=0, atol=0)


def test_a_model_zoo_file_has_the_classes_of_coco(tmp_path):
    old = randomized(80)
    content = {n: t.numpy() for n, t in old.items()}
    zoo = {"model": content, "__author__": "Detectron2 Model Zoo"}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(zoo))
    model = model_of(2)
    log = load(model, tmp_path / "zoo.pkl", ["fig", "Hot_Dog"])
    hot_dog = MetadataCatalog.get("coco_2017_val").thing_classes.index("hot dog")
    new = model.state_dict()
    torch.testing.assert_close(rows(new, 1), rows(old, hot_dog), rtol=0, atol=0)
    torch.testing.assert_close(background(new), background(old), rtol=0, atol=0)
    assert "copied for 1 classes (Hot_Dog (from 'hot dog'))" in log


def test_a_model_zoo_file_of_other_classes_than_cocos_has_no_names(tmp_path):
    old = {n: t.numpy() for n, t in randomized(8).items()}
    zoo = {"model": old, "__author__": "Detectron2 Model Zoo"}
    (tmp_path / "cityscapes.pkl").write_bytes(pickle.dumps(zoo))
    model = model_of(8)
    log = load(model, tmp_path / "cityscapes.pkl", list("abcdefgh"))
    weight = f"{BOX}.cls_score.weight"
    np.testing.assert_array_equal(model.state_dict()[weight].numpy(), old[weight])
    assert "Rows of" not in log


def test_a_resumed_run_loads_its_checkpoint_as_it_is(tmp_path):
    model = model_of(2)
    old = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    checkpointer = ReportingCheckpointer(model, str(tmp_path))
    checkpointer.save("model_final", class_names=["a", "b"], iteration=0)
    resumed = ReportingCheckpointer(other := model_of(2), str(tmp_path))
    with torch.no_grad():
        other.roi_heads.box_predictor.cls_score.weight.zero_()
    resumed.class_names = ["b", "a"]
    resumed.resume_or_load("", resume=True)
    torch.testing.assert_close(rows(other.state_dict(), 0), rows(old, 0), rtol=0, atol=0)


def test_nothing_in_common_is_one_sentence():
    text = describe_rows(["a"], ["b", "c"])
    assert "copied for no class; those of 2 classes (b, c) start anew" in text
