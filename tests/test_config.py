"""Every yaml of the repository builds, trains a step and runs; parameter names are frozen."""

import pytest
import torch
import yaml
from builders import CONFIGS, ROOT, fake_batch, load_cfg
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from mrcnn_plugin import add_mrcnn_config
from mrcnn_plugin.config import check_mrcnn_config
from mrcnn_plugin.engine import use_available_device
from mrcnn_plugin.errors import RunError

YAMLS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("configs", "projects")
    for path in (ROOT / folder).rglob("*.yaml")
    if not path.name.startswith("Base-")
    and "PaperAblations" not in path.parts  # tests/projects/test_paper_ablations.py
)


def test_yamls_are_found():
    assert "configs/mask_rcnn_R101_C4.yaml" in YAMLS and len(YAMLS) >= 9


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_builds_trains_a_step_and_infers(name):
    cfg = load_cfg(
        ROOT / name,
        *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 60, "MODEL.RPN.POST_NMS_TOPK_TEST", 10),
        *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
        *("TEST.DETECTIONS_PER_IMAGE", 5),
    )
    assert cfg.MODEL.PROPOSAL_GENERATOR.NAME == "MRCNNRPN"
    if name.startswith("configs"):
        assert cfg.MODEL.BACKBONE.NAME == "build_mrcnn_resnet_c4_backbone"
        assert cfg.MODEL.ROI_HEADS.NAME == "MRCNNRes5ROIHeads"
        assert cfg.MODEL.ROI_MASK_HEAD.NAME == "MRCNNMaskFCNHead"
    model = build_model(cfg)
    # The random net's features grow with depth (FrozenBN): a small input keeps the loss finite.
    model.pixel_std.mul_(1e4)
    batch = fake_batch(1, num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    with EventStorage():
        losses = model.train()(batch)
    sum(losses.values()).backward()
    assert {"loss_rpn_cls", "loss_rpn_loc"} < set(losses) and all(
        torch.isfinite(v) for v in losses.values()
    ), losses
    with torch.no_grad():
        (output,) = model.eval()(batch)
    assert len(output["instances"]) > 0
    if cfg.MODEL.MASK_ON:
        assert output["instances"].pred_masks.shape[1:] == (96, 128)


def test_the_papers_counts():
    cfg = load_cfg("mask_rcnn_R101_C4.yaml")
    assert cfg.MODEL.RESNETS.DEPTH == 101
    assert cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE == 64
    assert cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION == 0.25  # 1:3
    assert cfg.MODEL.RPN.POST_NMS_TOPK_TEST == 300
    assert cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE == 256  # N_cls
    assert cfg.MODEL.MRCNN.RPN_LAMBDA == 10
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH) == (0.02, 16)
    assert (cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER) == ((120000,), 160000)
    assert (cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.MOMENTUM, cfg.SOLVER.GAMMA) == (1e-4, 0.9, 0.1)
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 100
    sizes, ratios = cfg.MODEL.ANCHOR_GENERATOR.SIZES, cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS
    assert (len(sizes[0]), len(ratios[0])) == (5, 3)


def test_parameter_names_are_frozen():
    """ImageNet and Model Zoo files load by these names, and load nothing when they change."""
    model = build_model(load_cfg("mask_rcnn_R101_C4.yaml"))
    names = {name for name, _ in model.named_parameters()}
    outside_resnet = {n for n in names if not n.startswith(("backbone.", "roi_heads.res5."))}
    assert outside_resnet == {
        f"{layer}.{kind}"
        for kind in ("weight", "bias")
        for layer in (
            "proposal_generator.rpn_head.conv",
            "proposal_generator.rpn_head.objectness_logits",
            "proposal_generator.rpn_head.anchor_deltas",
            "roi_heads.box_predictor.cls_score",
            "roi_heads.box_predictor.bbox_pred",
            "roi_heads.mask_head.deconv",
            "roi_heads.mask_head.predictor",
        )
    }
    buffers = {name for name, _ in model.named_buffers()}
    for name in ("backbone.stem.conv1", "backbone.res4.22.conv3", "roi_heads.res5.0.shortcut"):
        assert f"{name}.weight" in names and f"{name}.norm.running_mean" in buffers


def test_without_a_gpu_cuda_becomes_cpu_with_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = get_cfg()
    assert cfg.MODEL.DEVICE == "cuda"
    use_available_device(cfg)
    assert cfg.MODEL.DEVICE == "cpu" and "running on the CPU" in caplog.text
    caplog.clear()
    use_available_device(cfg)
    assert not caplog.text


def test_leaf_configs_stay_small():
    """A leaf only has what differs from its base."""
    for name in ("mask_rcnn_R101_C4.yaml", "mask_rcnn_R50_C4.yaml"):
        assert len((CONFIGS / name).read_text().splitlines()) <= 10


def test_keys_are_all_under_mrcnn_and_documented():
    cfg, plain = get_cfg(), get_cfg()
    add_mrcnn_config(cfg)
    assert set(cfg.MODEL) - set(plain.MODEL) == {"MRCNN"}
    docs = "".join(file.read_text() for file in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
    assert [key for key in cfg.MODEL.MRCNN if key not in docs] == []


def test_the_model_has_five_keys():
    assert set(mrcnn_cfg().MODEL.MRCNN) == {
        "RPN_LAMBDA",
        "RPN_N_REG",
        "ROI_ALIGN_MODE",
        "RES5_STRIDE",
        "MASK_LOSS",
    }


def mrcnn_cfg():
    cfg = get_cfg()
    add_mrcnn_config(cfg)
    return cfg


# Old key under MODEL.MRCNN, new key, and a value of the right type.
RENAMED = [
    ("DATASETS", "DATASETS.FILES", ["a=a.json:a"]),
    ("CLASS_NAMES", "DATASETS.CLASS_NAMES", ["a"]),
    ("VAL_FRACTION", "DATASETS.VAL_FRACTION", 0.5),
    ("VAL_SEED", "DATASETS.VAL_SEED", 1),
    ("CHECK_DATA", "DATASETS.CHECK", False),
    ("DROP_BAD_DATA", "DATASETS.DROP_BAD", True),
    ("VAL_LOSS", "TEST.VAL_LOSS", True),
    ("BEST_METRIC", "TEST.BEST_METRIC", "segm/AP"),
    ("EARLY_STOP_PATIENCE", "TEST.EARLY_STOP_PATIENCE", 3),
    ("REPORT", "TEST.REPORT", False),
    ("ACCUMULATE", "SOLVER.ACCUMULATE", 2),
    ("EMA_DECAY", "SOLVER.EMA_DECAY", 0.9),
    ("WANDB_PROJECT", "WANDB_PROJECT", "a"),
]


@pytest.mark.parametrize("old, new, value", RENAMED)
def test_an_old_key_is_an_error_that_names_the_new_one(old, new, value, tmp_path):
    message = rf"MODEL.MRCNN.{old} was renamed to {new};"
    with pytest.raises(KeyError, match=message):
        mrcnn_cfg().merge_from_list([f"MODEL.MRCNN.{old}", value])
    file = tmp_path / "old.yaml"
    file.write_text(yaml.safe_dump({"VERSION": 2, "MODEL": {"MRCNN": {old: value}}}))
    with pytest.raises(KeyError, match=message):
        mrcnn_cfg().clone().merge_from_file(str(file))
    mrcnn_cfg().merge_from_list([new, value])  # the new key accepts the value


def test_adding_the_keys_twice_is_harmless():
    """A program may add them to a config that mrcnn_plugin.env has extended."""
    cfg = mrcnn_cfg()
    add_mrcnn_config(cfg)
    assert cfg == mrcnn_cfg()


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("ROI_ALIGN_MODE", "median", "'avg' or 'max'"),
        ("RES5_STRIDE", 3, "1 or 2"),
        ("MASK_LOSS", "hinge", "'sigmoid' or 'softmax'"),
        ("RPN_LAMBDA", -1.0, "0 or more"),
        ("RPN_LAMBDA", float("nan"), "0 or more"),
        ("RPN_N_REG", -5.0, "a positive number, or 0"),
    ],
)
def test_a_wrong_value_of_a_model_key_is_one_sentence(key, value, expected):
    cfg = load_cfg("mask_rcnn_R50_C4.yaml", f"MODEL.MRCNN.{key}", value)
    for raises in (check_mrcnn_config, build_model):
        with pytest.raises(RunError) as error:
            raises(cfg)
        text = str(error.value)
        assert text.startswith(f"MODEL.MRCNN.{key} is {value!r}; expected {expected}")
        assert "\n" not in text


def test_the_default_values_are_right():
    check_mrcnn_config(mrcnn_cfg())
