"""The training step: pieces of a batch against the whole, and steps that must not be taken."""

import copy

import pytest
import torch
from builders import fake_batch, tiny_cfg
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from mrcnn_plugin.engine.options import check_training_options
from mrcnn_plugin.engine.train_step import (
    NonFiniteStep,
    TrainStep,
    first_nonfinite,
    split_batch,
)
from mrcnn_plugin.engine.trainer import build_step
from mrcnn_plugin.errors import RunError


class Squares(nn.Module):
    """Loss: the mean over images of (w x)^2, and 0 times w."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, batch):
        x = torch.tensor([image["x"] for image in batch])
        return {"loss_cls": (self.weight * x).square().mean(), "loss_rpn_cls": self.weight * 0}


def step_of(model, batches, **kwargs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return TrainStep(model, batches, optimizer, **kwargs)


def take(step):
    with EventStorage() as storage:
        step.run_step()
    return {name: value for name, (value, _) in storage.latest().items()}


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_pieces_weigh_by_their_images(accumulate):
    """Of x = 1, 2, 3: loss (1 + 4 + 9)/3, gradient twice that, whatever the pieces."""
    model = Squares()
    metrics = take(step_of(model, [[{"x": x} for x in (1.0, 2.0, 3.0)]], accumulate=accumulate))
    assert metrics["loss_cls"] == pytest.approx(14 / 3)
    assert model.weight.item() == pytest.approx(1 - 0.1 * 2 * 14 / 3, abs=1e-6)


def test_split_batch():
    assert split_batch([1, 2, 3, 4, 5], 2) == [[1, 2, 3], [4, 5]]
    assert split_batch([1, 2], 3) == [[1], [2]]
    assert split_batch([1, 2], 1) == [[1, 2]]


def gradients(cfg, model, batch, names):
    """Gradients of the sum of the named losses, through `TrainStep` without its last line."""

    class Only(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, piece):
            losses = self.model(piece)
            return {name: losses[name] for name in names}

    torch.manual_seed(0)
    step = build_step(cfg, Only(), [batch], torch.optim.SGD(model.parameters(), lr=0.0))
    take(step)
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def model_without_chance(*opts):
    """FrozenBN, and every anchor and proposal taken: nothing depends on the batch or on a draw."""
    cfg = tiny_cfg(
        *("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.PIXEL_STD", [57.0, 57.0, 57.0]),
        *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 4096, "MODEL.RPN.POSITIVE_FRACTION", 1.0),
        *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 4096, "MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.0),
        *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 30, "SOLVER.IMS_PER_BATCH", 4),
        *opts,
    )
    return cfg, build_model(cfg).train()


def distance(ours, theirs):
    assert ours.keys() == theirs.keys()
    difference = sum((ours[n] - theirs[n]).square().sum() for n in ours).sqrt()
    return (difference / sum(g.square().sum() for g in theirs.values()).sqrt()).item()


def test_four_pieces_equal_the_batch():
    """RPN, class and box losses: the gradient of 4 pieces of one image is that of 4 images."""
    cfg, model = model_without_chance("MODEL.MASK_ON", False)
    batch = fake_batch(4)
    names = ("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg")
    whole = gradients(cfg, copy.deepcopy(model), batch, names)
    cfg.SOLVER.ACCUMULATE = 4
    pieces = gradients(cfg, copy.deepcopy(model), batch, names)
    assert distance(pieces, whole) < 1e-5
    first_alone = gradients(cfg, copy.deepcopy(model), batch[:1], names)
    assert distance(first_alone, whole) > 0.01


def test_the_mask_loss_of_pieces_is_what_as_many_gpus_compute():
    """It is a mean over foreground RoIs, so it is averaged over pieces, not over their RoIs."""
    cfg, model = model_without_chance()
    batch = fake_batch(2)
    alone = [gradients(cfg, copy.deepcopy(model), [image], ("loss_mask",)) for image in batch]
    cfg.SOLVER.ACCUMULATE = 2
    pieces = gradients(cfg, copy.deepcopy(model), batch, ("loss_mask",))
    mean = {name: (alone[0][name] + alone[1][name]) / 2 for name in pieces}
    assert distance(pieces, mean) < 1e-5


def test_more_pieces_than_images_are_rejected():
    cfg = tiny_cfg("SOLVER.IMS_PER_BATCH", 2, "SOLVER.ACCUMULATE", 4)
    with pytest.raises(RunError, match=r"ACCUMULATE is 4, but each process has 2 images"):
        check_training_options(cfg)


class Breaks(Squares):
    """The losses that `broken` names are NaN for an image with x = 13."""

    broken = ("loss_cls",)

    def forward(self, batch):
        losses = super().forward(batch)
        if any(image["x"] == 13 for image in batch):
            losses.update({name: losses[name] * float("nan") for name in self.broken})
        return losses


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"amp_dtype": torch.bfloat16}, {"scaler": torch.amp.GradScaler("cpu")}, {"accumulate": 2}],
    ids=["float32", "bfloat16", "scaled", "pieces"],
)
@pytest.mark.parametrize("at", [0, 1])
def test_weights_do_not_move_on_nan(kwargs, at):
    model = Breaks()
    xs = [1.0, 1.0]
    xs[at] = 13.0
    step = step_of(model, [[{"x": x} for x in xs]], **kwargs)
    with pytest.raises(NonFiniteStep) as failed:
        take(step)
    seen = failed.value
    assert seen.what == "loss_cls" and model.weight.item() == 1.0
    assert {"x": 13.0} in seen.piece and len(seen.batch) == 2


def test_the_first_loss_is_that_of_the_rpn():
    nan = torch.tensor(float("nan"))
    losses = {
        "loss_cls": nan,
        "loss_mask": nan,
        "loss_rpn_cls": torch.ones(()),
        "loss_rpn_loc": nan,
    }
    assert first_nonfinite(losses) == "loss_rpn_loc"
    assert first_nonfinite({"loss_cls": torch.ones(())}) is None


class RootOfZero(Squares):
    """A finite loss whose gradient is infinite."""

    def forward(self, batch):
        return {"loss_cls": (self.weight - 1.0).sqrt()}


def test_a_gradient_that_is_not_finite_is_not_stepped_on():
    with pytest.raises(NonFiniteStep) as failed:
        take(step_of(model := RootOfZero(), [[{"x": 1.0}]]))
    assert failed.value.what == "the gradient of weight" and model.weight.item() == 1.0


def test_overflow_under_the_loss_scaler_is_left_out_and_training_goes_on():
    model = RootOfZero()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    step = step_of(model, [[{"x": 1.0}]], scaler=scaler)
    take(step)
    assert model.weight.item() == 1.0 and scaler.get_scale() == 512.0


def test_a_loss_scale_that_has_vanished_ends_the_run():
    step = step_of(RootOfZero(), [[{"x": 1.0}]], scaler=torch.amp.GradScaler("cpu", 1e-7))
    with pytest.raises(NonFiniteStep) as failed:
        take(step)
    assert failed.value.what.startswith("every gradient (loss scale 1e-07")


def test_the_scaler_is_in_the_checkpoint():
    step = step_of(Squares(), [], scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
    other = step_of(Squares(), [], scaler=torch.amp.GradScaler("cpu"))
    other.load_state_dict(step.state_dict())
    assert other.scaler.get_scale() == 8.0
    assert "grad_scaler" not in step_of(Squares(), []).state_dict()
