"""On a GPU the whole model computes what it computes on a CPU, and a run trains, stops and resumes.

Nothing here has expected values of its own: the CPU is the reference.
"""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import fake_batch, read_metrics, tiny_cfg, tiny_model_file, train
from detectron2.engine import HookBase
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from mrcnn_plugin import Predictor
from mrcnn_plugin.engine import MRCNNTrainer
from mrcnn_plugin.inference.masks import encode_masks

pytestmark = pytest.mark.gpu

# All anchors and proposals are in the losses, because a GPU draws others than a CPU.
ALL = ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 100_000, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 100_000)


@pytest.fixture(autouse=True)
def exact():
    """Convolutions without TF32, which has 10 bits of mantissa, and the same in every run."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def losses_and_gradients(model, batch, dtype=None):
    model.zero_grad()
    device = model.device.type
    with EventStorage(), torch.autocast(device, dtype, enabled=dtype is not None):
        losses = model(copy.deepcopy(batch))
    sum(losses.values()).backward()
    gradients = {n: p.grad.cpu() for n, p in model.named_parameters() if p.requires_grad}
    return {name: float(loss.detach()) for name, loss in losses.items()}, gradients


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_losses_and_gradients_are_those_of_the_cpu(norm):
    model = build_model(tiny_cfg("MODEL.RESNETS.NORM", norm, *ALL)).train()
    batch = fake_batch()
    expected, expected_gradients = losses_and_gradients(model, batch)
    on_gpu = copy.deepcopy(model).cuda()
    losses, gradients = losses_and_gradients(on_gpu, batch)
    assert losses == pytest.approx(expected, rel=1e-3)
    for name, gradient in expected_gradients.items():
        distance = (gradients[name] - gradient).norm() / gradient.norm().clamp(min=1e-6)
        assert distance < 1e-2, f"{name}: relative distance {distance}"
    half, _ = losses_and_gradients(on_gpu, batch, torch.float16)
    assert half == pytest.approx(expected, rel=3e-2)


def test_detections_are_those_of_the_cpu(tmp_path):
    path = tiny_model_file(tmp_path / "model.pth")
    image = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    on_cpu, on_gpu = (Predictor(path, device=d, threshold=0.1) for d in ("cpu", "cuda"))
    expected, found = on_cpu(image), on_gpu(image)
    assert len(expected) > 3
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=1e-2
    )
    assert torch.equal(found.pred_classes, expected.pred_classes)
    different = found.pred_masks.tensor != expected.pred_masks.tensor
    assert different.float().mean() < 1e-3
    several = on_gpu([image, image[:64], image])
    assert [len(i) for i in several] == [len(found), len(on_gpu(image[:64])), len(found)]


def test_masks_on_a_gpu_are_encoded_as_on_a_cpu():
    probabilities, corners = torch.rand(5, 14, 14), torch.rand(5, 2) * 40
    boxes = torch.cat([corners, corners + 5 + torch.rand(5, 2) * 30], 1)
    expected = encode_masks(probabilities, boxes, (60, 80))
    assert encode_masks(probabilities.cuda(), boxes.cuda(), (60, 80)).rles == expected.rles


class LossLog(HookBase):
    """Appends `iteration loss` to `OUTPUT_DIR/losses.txt`. metrics.json has running medians."""

    def after_step(self):
        loss = self.trainer.storage.latest()["total_loss"][0]
        with Path(self.trainer.cfg.OUTPUT_DIR, "losses.txt").open("a") as file:
            file.write(f"{self.trainer.iter} {loss!r}\n")


@pytest.mark.parametrize("amp", [False, True])
def test_a_run_resumes_where_it_stopped(amp, shapes_cfg, monkeypatch):
    """The loss of every iteration after the resume is that of the undisturbed run."""
    keys = ("MODEL.DEVICE", "cuda", "SOLVER.AMP.ENABLED", amp, "SOLVER.CHECKPOINT_PERIOD", 3)
    keys += ("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR")  # does not depend on MAX_ITER

    def losses(cfg):
        lines = Path(cfg.OUTPUT_DIR, "losses.txt").read_text().splitlines()
        return {int(iteration): float(loss) for iteration, loss in map(str.split, lines)}

    build_hooks = MRCNNTrainer.build_hooks
    monkeypatch.setattr(MRCNNTrainer, "build_hooks", lambda t: [LossLog(), *build_hooks(t)])
    whole = shapes_cfg("SOLVER.MAX_ITER", 6, "TEST.EVAL_PERIOD", 6, *keys)
    train(whole)
    parts = shapes_cfg("SOLVER.MAX_ITER", 3, *keys)
    train(parts)
    parts.SOLVER.MAX_ITER = 6
    train(parts, resume=True)
    expected = losses(whole)
    assert losses(parts) == pytest.approx(expected, rel=1e-3) and len(expected) == 6
    assert any("segm/AP" in line for line in read_metrics(whole))
