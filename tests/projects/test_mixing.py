"""Every recipe of docs/mixing.md builds, trains a step and infers; DETECTRON2_ENV_MODULE works."""

import re

import pytest
import torch
import yaml
from builders import ROOT, fake_batch, load_cfg, run_python
from detectron2 import model_zoo
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.structures import Keypoints
from detectron2.utils.events import EventStorage

from mrcnn_plugin import MRCNNRPN, MultiScaleRoIAlign, add_mrcnn_config
from mrcnn_plugin.modeling.pooler import RoIAlignPooler

PAGE = (ROOT / "docs/mixing.md").read_text()
RECIPES = dict(re.findall(r"### (.+?)\n\n```yaml\n(.*?)```", PAGE, re.DOTALL))
FEWER = (
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RPN.POST_NMS_TOPK_TRAIN", 50),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 10, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 5),
    *("MODEL.PIXEL_STD", [1e4, 1e4, 1e4]),  # random FrozenBN does not normalise
)


def recipe_cfg(name):
    """The stock config that the recipe's first line names, with the recipe's lines on top."""
    stock = re.match(r"# on (\S+)", RECIPES[name])[1]
    cfg = get_cfg()
    add_mrcnn_config(cfg)
    cfg.merge_from_file(model_zoo.get_config_file(stock))
    cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(RECIPES[name])))
    cfg.merge_from_list(list(FEWER))
    return cfg


def batch_for(cfg):
    batch = fake_batch(2, num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    for image in batch if cfg.MODEL.KEYPOINT_ON else ():
        instances = image["instances"]
        centers = instances.gt_boxes.get_centers()[:, None].expand(-1, 17, 2)
        visible = torch.full((len(instances), 17, 1), 2.0)
        instances.gt_keypoints = Keypoints(torch.cat([centers, visible], dim=2))
    return batch


def test_the_page_has_recipes():
    assert len(RECIPES) >= 8


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name):
    cfg = recipe_cfg(name)
    model, batch = build_model(cfg), batch_for(cfg)
    with EventStorage():
        losses = model.train()(batch)
    sum(losses.values()).backward()
    assert all(torch.isfinite(v) for v in losses.values()), losses
    assert {"loss_rpn_cls", "loss_rpn_loc"} <= set(losses)
    assert not cfg.MODEL.MASK_ON or "loss_mask" in losses
    with torch.no_grad():
        outputs = model.eval()(batch)
    assert all(len(output["instances"]) > 0 for output in outputs)


@pytest.mark.parametrize("name", [n for n in RECIPES if "RoIAlign" in n])
def test_pyramid_heads_pool_with_our_op_in_one_call(name):
    heads = build_model(recipe_cfg(name)).roi_heads
    poolers = [m for m in heads.modules() if isinstance(m, RoIAlignPooler)]
    assert len(poolers) == 2 and heads.box_pooler in poolers  # box, and mask or keypoint
    assert all(isinstance(p.roi_align, MultiScaleRoIAlign) for p in poolers)
    mode = "max" if "maximum" in name else "avg"
    assert {p.roi_align.mode for p in poolers} == {mode}


def test_pyramid_heads_equal_detectron2s():
    """Same weights, `avg`, detectron2's sampling: the same detections and masks."""
    cfg = recipe_cfg("Our RoIAlign in a feature pyramid, maximum instead of average")
    cfg.merge_from_list(["MODEL.MRCNN.ROI_ALIGN_MODE", "avg"])
    ours = build_model(cfg).eval()
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    stock = build_model(cfg).eval()
    stock.load_state_dict(ours.state_dict())
    batch = batch_for(cfg)
    with torch.no_grad():
        pairs = zip(*(model.inference(batch, do_postprocess=False) for model in (stock, ours)))
    for a, b in pairs:
        assert len(a) > 0
        torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a.pred_masks, b.pred_masks, rtol=1e-3, atol=1e-4)


def test_n_reg_sums_the_levels_of_a_pyramid():
    rpn = build_model(recipe_cfg("Our RPN in a feature pyramid")).proposal_generator
    assert isinstance(rpn, MRCNNRPN)
    # P2 to P6 of a 128 x 192 image: strides 4 to 64.
    sizes = [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    anchors = rpn.anchor_generator([torch.zeros(1, 256, h, w) for h, w in sizes])
    assert rpn._num_locations(anchors) == sum(h * w for h, w in sizes)


@pytest.mark.parametrize("first_import", ["detectron2", "mrcnn_plugin"])
def test_env_module_reaches_a_program_that_knows_nothing_of_the_plugin(first_import):
    program = (
        f"import {first_import}\n"
        "from detectron2.config import get_cfg\n"
        "from detectron2.modeling import build_model\n"
        "cfg = get_cfg()\n"
        "cfg.merge_from_file('configs/mask_rcnn_shapes_C4.yaml')\n"
        "cfg.merge_from_list(['MODEL.MRCNN.ROI_ALIGN_MODE', 'max'])\n"
        "print(type(build_model(cfg).roi_heads).__name__)\n"
    )
    done = run_python("-c", program, DETECTRON2_ENV_MODULE="mrcnn_plugin.env")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "MRCNNRes5ROIHeads"


@pytest.mark.parametrize("first_import", ["detectron2", "mrcnn_plugin"])
def test_env_module_registers_the_datasets_of_our_configs(first_import, tmp_path):
    """Shapes are drawn when they are first loaded, once."""
    program = (
        f"import {first_import}, os\n"
        "from detectron2.data import DatasetCatalog, MetadataCatalog\n"
        "assert {'shapes_train', 'shapes_val', 'fruits_nuts'} <= set(DatasetCatalog.list())\n"
        "assert os.listdir(os.environ['DETECTRON2_DATASETS']) == []\n"
        "images = DatasetCatalog.get('shapes_val')\n"
        "file = MetadataCatalog.get('shapes_val').json_file\n"
        "written = os.stat(file).st_mtime_ns\n"
        "assert DatasetCatalog.get('shapes_val') == images\n"
        "assert os.stat(file).st_mtime_ns == written\n"
        "print(len(images), *MetadataCatalog.get('shapes_val').thing_classes)\n"
    )
    done = run_python(
        "-c",
        program,
        DETECTRON2_ENV_MODULE="mrcnn_plugin.env",
        DETECTRON2_DATASETS=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "100 circle square triangle"


@pytest.mark.parametrize("name", ["mask_rcnn_R101_C4", "mask_rcnn_R50_C4"])
def test_lazy_config_builds_the_model_of_the_yaml(name):
    lazy = instantiate(LazyConfig.load(str(ROOT / f"configs/lazy/{name}.py")).model)
    ours = build_model(load_cfg(f"{name}.yaml"))
    lazy.load_state_dict(ours.state_dict())  # strict
    frozen = {n for n, p in ours.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, p in lazy.named_parameters() if not p.requires_grad}
    assert str(lazy) == str(ours)  # every module and its options
    batch = fake_batch(1, num_classes=80)
    for model in (lazy, ours):
        model.pixel_std.fill_(1e4)
    losses = []
    for model in (lazy, ours):
        torch.manual_seed(0)
        with EventStorage(), torch.no_grad():
            losses.append(model.train()(batch))
    assert losses[0] == losses[1]
    with torch.no_grad():
        a, b = (m.eval().inference(batch, do_postprocess=False)[0] for m in (lazy, ours))
    assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor) and torch.equal(a.scores, b.scores)


def test_import_registers_no_dataset():
    """In a process of its own: other tests register datasets in this one."""
    program = (
        "import mrcnn_plugin, mrcnn_plugin.modeling\n"
        "from detectron2.data import DatasetCatalog, MetadataCatalog\n"
        "ours = {'shapes_train', 'shapes_val', 'fruits_nuts'}\n"
        "assert not ours & {*DatasetCatalog.list(), *MetadataCatalog.list()}\n"
    )
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr
