"""`SOLVER.AMP.ENABLED` holds in training, validation loss, evaluation and prediction alike."""

import numpy as np
import pytest
import torch
from builders import tiny_model_file

from mrcnn_plugin import Predictor
from mrcnn_plugin.engine import MRCNNTrainer

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)


def recorded_dtypes(model) -> list[tuple[bool, bool, torch.dtype]]:
    """Filled at every forward: (training mode, with gradients, dtype of the backbone's output)."""
    found = []
    model.backbone.register_forward_hook(
        lambda module, _, out: found.append(
            (module.training, torch.is_grad_enabled(), out["res4"].dtype)
        )
    )
    return found


@pytest.mark.parametrize("amp, dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_a_run(shapes_cfg, amp, dtype):
    opts = ("SOLVER.AMP.ENABLED", amp, "SOLVER.MAX_ITER", 1, "TEST.VAL_LOSS", True)
    trainer = MRCNNTrainer(shapes_cfg(*opts))
    found = recorded_dtypes(trainer.model)
    trainer.train()
    training, validation_loss, evaluation = (True, True), (True, False), (False, False)
    assert {mode[:2] for mode in found} == {training, validation_loss, evaluation}
    assert {dtype for *_, dtype in found} == {dtype}
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


@pytest.mark.parametrize("in_file, argument", [(True, None), (False, True), (True, False)])
def test_a_predictor(in_file, argument, tmp_path):
    amp = in_file if argument is None else argument
    path = tiny_model_file(tmp_path / "model.pth", "SOLVER.AMP.ENABLED", in_file)
    predictor = Predictor(path, device="cpu", threshold=0.05, amp=argument)
    found = recorded_dtypes(predictor.model)
    instances = predictor(IMAGE)
    assert [dtype for *_, dtype in found] == [torch.bfloat16 if amp else torch.float32]
    assert len(instances) > 3 and instances.scores.dtype == torch.float32
    # Scores in bfloat16 would have only 8 bits.
    assert not torch.equal(instances.scores, instances.scores.bfloat16().float())
    raw = predictor.model.inference([predictor._input(IMAGE)], do_postprocess=False)[0]
    assert raw.pred_masks.dtype == torch.float32
