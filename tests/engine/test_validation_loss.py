"""Validation loss: its value, and that it does not affect training."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import read_metrics, train
from detectron2.data import MetadataCatalog
from torch import nn

from mrcnn_plugin.engine.hooks.validation_loss import build_validation_loader, validation_loss
from mrcnn_plugin.engine.rng import preserved_rng
from mrcnn_plugin.errors import RunError


class ToyModel(nn.Module):
    """Losses one can compute by hand, through layers that have state or draw at random."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1, momentum=0.5)
        self.dropout = nn.Dropout(0.5)

    def forward(self, batch):
        value = torch.tensor([[batch[0]["value"]], [batch[0]["value"]]])
        random.random(), np.random.rand(), torch.rand(1)
        if not self.training:
            return [{}]
        normed = self.dropout(self.norm(value))
        return {"loss_a": normed.mean(), "loss_b": torch.tensor(1.0)}


def test_mean_over_images_with_running_statistics_and_without_dropout():
    model = ToyModel()
    model.norm.running_mean.fill_(2.0)
    model.norm.running_var.fill_(4.0 - model.norm.eps)
    # (4 - 2) / 2 = 1 and (10 - 2) / 2 = 4, whose mean is 2.5
    losses = validation_loss(model, [[{"value": 4.0}], [{"value": 10.0}]])
    assert losses == pytest.approx({"loss_a": 2.5, "loss_b": 1.0, "total_loss": 3.5})


@pytest.mark.parametrize("training", [True, False])
def test_model_and_generators_are_as_before(training):
    model = ToyModel().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    draws = (random.random, np.random.rand, lambda: torch.rand(1).item())
    with preserved_rng():
        expected = [draw() for draw in draws]
    validation_loss(model, [[{"value": 5.0}]])
    assert [draw() for draw in draws] == expected
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training == training for module in model.modules())


def test_the_loader_keeps_ground_truth_and_test_time_size(shapes_cfg):
    (first, *_) = loaded = [image for (image,) in build_validation_loader(shapes_cfg())]
    assert len(loaded) == 3 and all(len(image["instances"]) for image in loaded)
    assert first["image"].shape == (3, 96, 96)  # MIN_SIZE_TEST
    assert first["instances"].gt_masks.tensor.shape[1:] == (96, 96)


def test_without_annotations_one_sentence_says_so(shapes_cfg):
    with pytest.raises(RunError, match=r"needs DATASETS\.TEST"):
        build_validation_loader(shapes_cfg("DATASETS.TEST", ()))


def test_a_dataset_without_annotations_is_rejected(shapes_cfg):
    cfg = shapes_cfg()
    file = Path(MetadataCatalog.get("drawn_val").json_file)
    content = json.loads(file.read_text())
    del content["annotations"]
    file.write_text(json.dumps(content))
    with pytest.raises(RunError, match="the images of drawn_val have none"):
        build_validation_loader(cfg)


def test_weights_are_bit_equal_with_and_without(shapes_cfg):
    """Augmentation draws from numpy and sampling from torch in this process: both must continue."""
    common = ("SOLVER.MAX_ITER", 4, "TEST.EVAL_PERIOD", 2)
    without = train(shapes_cfg(*common))
    measured = train(cfg := shapes_cfg(*common, "TEST.VAL_LOSS", True))
    losses = [m for m in read_metrics(cfg) if "validation/total_loss" in m]
    assert [line["iteration"] for line in losses] == [1, 4]
    for line in losses:
        parts = [v for k, v in line.items() if k.startswith("validation/loss")]
        assert len(parts) == 5 and line["validation/total_loss"] == pytest.approx(sum(parts))
    ours = measured.model.state_dict()
    assert all(torch.equal(v, ours[name]) for name, v in without.model.state_dict().items())
