"""Weight files with the real names and shapes load completely, and the log reports it."""

import logging
import pickle

import numpy as np
import pytest
import torch
from builders import load_cfg, tiny_cfg
from detectron2 import model_zoo
from detectron2.modeling import build_model

from mrcnn_plugin.engine import ReportingCheckpointer


@pytest.fixture
def log(caplog):
    """The checkpointers log under fvcore's name, which need not propagate to the root logger."""
    logger = logging.getLogger("fvcore.common.checkpoint")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)


def msra_name(name):
    """detectron2's name of an R-101 parameter -> the name in MSRA's Caffe2 ImageNet file."""
    stage, *rest = name.split(".")
    if stage == "stem":
        blob, kind = "conv1", rest[1:]
        blob = "res_conv1" if kind[0] == "norm" else blob
    else:
        block, conv, *kind = rest
        branch = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}[conv]
        blob = f"{stage}_{block}_branch{branch}"
    return blob + {"weight": "_w", "norm.weight": "_bn_s", "norm.bias": "_bn_b"}[".".join(kind)]


def resnet_tensors(model):
    """The tensors that an ImageNet classifier has: stem to res5, weights and the affine norms."""
    for name, tensor in model.state_dict().items():
        for prefix in ("backbone.", "roi_heads."):
            resnet_name = name.removeprefix(prefix)
            if resnet_name.startswith(("stem", "res")) and "running" not in name:
                yield name, resnet_name, tensor


@pytest.mark.parametrize(
    "config, stride", [("mask_rcnn_R101_C4", 1), ("mask_rcnn_R101_C4_3x_detectron2", 2)]
)
def test_imagenet_r101_fills_backbone_and_res5(config, stride, tmp_path, log):
    model = build_model(load_cfg(f"{config}.yaml"))
    rng = np.random.default_rng(0)
    blobs, expected = {"fc1000_w": np.zeros((1000, 2048), np.float32)}, {}
    for name, resnet_name, tensor in resnet_tensors(model):
        value = rng.standard_normal(tuple(tensor.shape), dtype=np.float32)
        blobs[msra_name(resnet_name)] = expected[name] = value
    assert len(expected) == 104 * 3  # 104 convs (4 of them shortcuts) with weight, scale and shift
    path = tmp_path / "R-101.pkl"
    path.write_bytes(pickle.dumps(blobs))

    ReportingCheckpointer(model).load(str(path))
    state = model.state_dict()
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name].numpy(), value, err_msg=name)
    assert "backbone 282/282" in log.text  # stem and res2 to res4: 94 convs
    assert "proposal_generator 0/6" in log.text


def zoo_file(path):
    """A file like model_final_a2914c.pkl: the stock model's names and shapes, random numbers."""
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_101_C4_3x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    stock = build_model(cfg)
    weights = {name: tensor.numpy() for name, tensor in stock.state_dict().items()}
    content = {"model": weights, "__author__": "Detectron2 Model Zoo"}
    path.write_bytes(pickle.dumps(content))
    return weights


def test_model_zoo_file_fills_the_compatible_config_completely(tmp_path, log):
    weights = zoo_file(tmp_path / "zoo.pkl")
    model = build_model(load_cfg("mask_rcnn_R101_C4_3x_detectron2.yaml"))
    ReportingCheckpointer(model).load(str(tmp_path / "zoo.pkl"))
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), weights[name], err_msg=name)
    total = 104 * 3 + 7 * 2  # convs with norms; RPN 3, box 2 and mask 2 layers with biases
    assert f"Loaded {total} of the model's {total} tensors" in log.text


def test_model_zoo_file_fills_all_of_the_papers_config_but_the_2k_scores(tmp_path, log):
    weights = zoo_file(tmp_path / "zoo.pkl")
    model = build_model(load_cfg("mask_rcnn_R101_C4.yaml"))
    ReportingCheckpointer(model).load(str(tmp_path / "zoo.pkl"))
    different = {
        name
        for name, tensor in model.state_dict().items()
        if tensor.shape != weights[name].shape or not np.array_equal(tensor.numpy(), weights[name])
    }
    scores = "proposal_generator.rpn_head.objectness_logits"
    assert different == {f"{scores}.weight", f"{scores}.bias"}
    assert "proposal_generator 4/6" in log.text


def test_a_file_of_which_nothing_fits_is_an_error(tmp_path):
    torch.save({"model": {"layers.0.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no tensor of the weight file"):
        ReportingCheckpointer(build_model(tiny_cfg())).load(str(tmp_path / "other.pth"))


@pytest.mark.parametrize(
    "opts, message",
    [
        (("MODEL.RESNETS.DEPTH", 34), "res4 has 2 blocks in the weights and 6 in the model"),
        (("MODEL.ROI_HEADS.NUM_CLASSES", 7), "3 classes and the model 7"),
        (("MODEL.RPN.HEAD_NAME", "StandardRPNHead"), "k or 2k scores"),
        ((), None),
    ],
)
def test_a_file_of_another_model_gets_a_diagnosis_not_just_a_list(opts, message, tmp_path, log):
    torch.save({"model": build_model(tiny_cfg()).state_dict()}, tmp_path / "model.pth")
    ReportingCheckpointer(build_model(tiny_cfg(*opts))).load(str(tmp_path / "model.pth"))
    if message is None:
        assert "does not belong" not in log.text
    else:
        assert "does not belong to this model" in log.text and message in log.text
