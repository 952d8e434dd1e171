"""projects/PaperAblations: every row of Table 2 builds and trains; RoIPool and RoIWarp by hand."""

import json
import sys

import numpy as np
import pytest
import torch
from builders import ROOT, fake_batch
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage

sys.path.insert(0, str(ROOT / "projects/PaperAblations"))

import run
from paper_ablations.poolers import RoIPoolPooler, RoIWarpPooler, quantise

FEWER = (
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.PIXEL_STD", [1e4, 1e4, 1e4]),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TEST", 10),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
)


def test_every_row_of_table_2_has_its_config():
    assert run.all_arms() == sorted(run.PUBLISHED)


@pytest.mark.parametrize("arm", run.all_arms())
def test_arm_trains_a_step_and_infers(arm):
    cfg = run.arm_cfg(arm, shapes=False, opts=FEWER)
    if cfg.MODEL.RESNETS.DEPTH == 101:  # the same parts at half the time
        cfg.MODEL.RESNETS.DEPTH = 50
    model, batch = build_model(cfg), fake_batch(1, num_classes=80)
    with EventStorage():
        losses = model.train()(batch)
    sum(losses.values()).backward()
    assert len(losses) == 5 and all(torch.isfinite(v) for v in losses.values()), losses
    with torch.no_grad():
        (output,) = model.eval()(batch)
    assert output["instances"].pred_masks.shape[1:] == (96, 128)


def test_an_arm_on_shapes_is_the_small_net_with_the_arms_own_lines():
    cfg = run.arm_cfg("2c_roiwarp_max", shapes=True)
    assert cfg.MODEL.ROI_HEADS.NAME == "AblationRes5ROIHeads"
    assert (cfg.MODEL.PAPER_ABLATIONS.POOLER, cfg.MODEL.MRCNN.ROI_ALIGN_MODE) == ("RoIWarp", "max")
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.ROI_HEADS.NUM_CLASSES) == (18, 3)
    assert cfg.DATASETS.TRAIN == ("shapes_train",)


def test_quantise_by_hand():
    # At stride 16: corners (10, 20) and (70, 40) are at (0.6, 1.25) and (4.4, 2.5) -> pixels 1, 1
    # to 4, 2 (2.5 rounds to even), both inclusive. A point is one pixel.
    rois = torch.tensor([[0.0, 10, 20, 70, 40], [1.0, 33, 33, 33, 33]])
    expected = [[0.0, 1, 1, 5, 3], [1.0, 2, 2, 3, 3]]
    assert quantise(rois, 1 / 16).tolist() == expected


RAMP = torch.arange(64.0).view(1, 1, 8, 8)  # value 8 y + x at pixel (x, y)
BOX = [Boxes(torch.tensor([[1.2, 2.1, 4.9, 5.8]]))]  # pixels 1 to 5, 2 to 6 when rounded


def test_roi_pool_is_the_maximum_of_whole_pixels():
    # 5 x 5 pixels in one bin: the last one, 8 * 6 + 5.
    assert RoIPoolPooler(1, 1.0)([RAMP], BOX).item() == 53


def test_roi_warp_samples_the_rounded_roi():
    # One bin, one sample: the centre of pixels [1, 6) x [2, 7) is (3.5, 4.5), pixel (3, 4): 35.
    assert RoIWarpPooler(1, 1.0, 1, "avg")([RAMP], BOX).item() == 35
    # RoIAlign does not round: the centre of the box is (3.05, 3.95), half a pixel less in index.
    from mrcnn_plugin import roi_align

    unrounded = roi_align(RAMP, torch.tensor([[0, 1.2, 2.1, 4.9, 5.8]]), 1, 1.0, 1)
    assert unrounded.item() == pytest.approx(8 * 3.45 + 2.55, abs=1e-4)


def write_result(folder, arm, seed, ap):
    path = folder / arm / f"seed{seed}/result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"segm": {"AP": ap}, "bbox": {"AP": 0.0}}))


def test_table_by_hand(tmp_path):
    for seed, ap in enumerate((30.0, 31.0, 32.0)):
        write_result(tmp_path, "2b_sigmoid", seed, ap)
    arms = ["2b_sigmoid", "2b_softmax"]
    run.report(tmp_path, arms)
    lines = run.table(run.collect(tmp_path, arms)).splitlines()
    assert lines[2] == "| 2b_sigmoid | 30.3 | 31.0 | 1.0 | 30.0, 31.0, 32.0 |"
    assert lines[3] == "| 2b_softmax | 24.8 | not yet run | | |"
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_what_is_done_is_not_run_again(tmp_path, monkeypatch):
    write_result(tmp_path, "2b_sigmoid", 1, 30.0)
    ran = []

    def record(args, arm, seed, output):
        ran.append((arm, seed))
        write_result(tmp_path, arm, seed, 20.0)

    monkeypatch.setattr(run, "_in_new_process", record)
    monkeypatch.setattr(
        sys, "argv", ["run.py", "--arms", "2b_s*", "--seeds", "1", "2", "--output", str(tmp_path)]
    )
    run.main()
    assert ran == [("2b_softmax", 1), ("2b_sigmoid", 2), ("2b_softmax", 2)]
    assert np.mean(run.collect(tmp_path, ["2b_sigmoid"])["2b_sigmoid"]) == 25
