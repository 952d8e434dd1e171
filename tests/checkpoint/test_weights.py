"""Weights in and out: names, the RPN's scores, and function parity of converted models."""

import pickle

import numpy as np
import pytest
import torch
import torchvision
from builders import (
    fake_batch,
    load_cfg,
    run_python,
    tame_random_weights,
    tiny_cfg,
    tiny_model_file,
)
from detectron2 import model_zoo
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager

from mrcnn_plugin import Predictor
from mrcnn_plugin.checkpoint.model_file import read_model_file
from mrcnn_plugin.checkpoint.weights import check_fit, read_weights, to_detectron2, to_mrcnn
from mrcnn_plugin.cli import weights as weights_command
from mrcnn_plugin.engine import ReportingCheckpointer, check_inputs
from mrcnn_plugin.errors import RunError

FEWER = (
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 40, "TEST.DETECTIONS_PER_IMAGE", 10),
    *("MODEL.DEVICE", "cpu"),
)
# Our R50-C4 with 2k scores and detectron2's head, which is the stock model in another form.
OURS = (
    *("MODEL.MRCNN.RES5_STRIDE", 2, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14),
    *("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 0),
)


def stock_r50():
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml")
    cfg.merge_from_list(list(FEWER))
    model = build_model(cfg)
    tame_random_weights(model)
    return model


def our_r50(*opts):
    return build_model(load_cfg("mask_rcnn_R50_C4.yaml", *OURS, *FEWER, *opts))


def same_detections(a, b):
    batch = fake_batch(1, num_classes=80, height=128, width=160)
    with torch.no_grad():
        (x,), (y,) = (m.eval().inference(batch, do_postprocess=False) for m in (a, b))
    assert len(x) == len(y) >= 3
    torch.testing.assert_close(x.pred_boxes.tensor, y.pred_boxes.tensor, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(x.scores, y.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x.pred_masks, y.pred_masks, rtol=1e-3, atol=1e-4)


def test_stock_to_ours_and_back_detect_the_same(tmp_path):
    stock, ours = stock_r50(), our_r50()
    content = {"model": {n: t.numpy() for n, t in stock.state_dict().items()}, "__author__": "zoo"}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(content))
    weights = to_mrcnn(read_weights(str(tmp_path / "zoo.pkl")))
    assert not check_fit(weights, ours, backbone_alone=False).missing
    ours.load_state_dict(weights)
    same_detections(stock, ours)

    with torch.no_grad():  # as after training: both scores of an anchor carry something
        ours.proposal_generator.rpn_head.objectness_logits.weight.normal_(std=0.01)
    torch.save({"model": ours.state_dict()}, tmp_path / "ours.pth")
    back = stock_r50()
    back.load_state_dict(to_detectron2(read_weights(str(tmp_path / "ours.pth"))))
    same_detections(ours, back)


def test_scores_by_hand():
    name = "proposal_generator.rpn_head.objectness_logits"
    deltas = {"proposal_generator.rpn_head.anchor_deltas.bias": torch.zeros(8)}  # k = 2
    zoo = {
        f"{name}.weight": torch.ones(2, 3, 1, 1),
        f"{name}.bias": torch.tensor([5.0, 7.0]),
        **deltas,
    }
    ours = to_mrcnn(zoo)
    assert ours[f"{name}.bias"].tolist() == [0, 0, 5, 7]
    assert ours[f"{name}.weight"].shape == (4, 3, 1, 1)
    ours[f"{name}.bias"] = torch.tensor([1.0, 2.0, 5.0, 7.0])
    assert to_detectron2(ours)[f"{name}.bias"].tolist() == [4, 5]
    assert to_mrcnn(ours) == ours  # 2k already
    assert to_detectron2(zoo) == zoo


@pytest.mark.parametrize("depth", [50, 101])
def test_torchvision_resnet_computes_the_same_features(depth, tmp_path):
    """torchvision's own net up to layer3 (res4) and layer4 (res5), on the converted weights."""
    theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.2)
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    stride_in_3x3 = ("MODEL.RESNETS.STRIDE_IN_1X1", False)
    model = build_model(load_cfg(f"mask_rcnn_R{depth}_C4.yaml", *OURS, *stride_in_3x3))
    weights = read_weights(str(tmp_path / "resnet.pth"))
    fit = check_fit(weights, model, backbone_alone=True)
    assert {"fc.weight", "fc.bias"} == {n for n in fit.left if "num_batches" not in n}
    model.load_state_dict({n: weights[n] for n in fit.matched}, strict=False)
    x, crops = torch.randn(1, 3, 64, 64), torch.randn(2, 1024, 14, 14)
    with torch.no_grad():
        stem = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for ours, expected in (
            (model.backbone(x)["res4"], theirs.layer3(theirs.layer2(theirs.layer1(stem)))),
            (model.roi_heads.res5(crops), theirs.layer4(crops)),
        ):
            atol = 1e-4 * expected.abs().max().item()
            torch.testing.assert_close(ours, expected, rtol=1e-3, atol=atol)


def test_torchvision_address_loads_what_is_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    theirs = torchvision.models.resnet50(weights=None)
    (tmp_path / "checkpoints").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "checkpoints/resnet50-11ad3fa6.pth")
    model = build_model(load_cfg("mask_rcnn_R50_C4.yaml"))
    ReportingCheckpointer(model).load("torchvision://ResNet50_Weights.IMAGENET1K_V2")
    assert torch.equal(model.backbone.res4[5].conv2.weight, theirs.layer3[5].conv2.weight)
    assert torch.equal(model.roi_heads.res5[2].conv3.norm.weight, theirs.layer4[2].bn3.weight)


def test_torchvision_address_without_network_says_which_file_to_place_where(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def no_network(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    cfg = tiny_cfg("DATASETS.TEST", ())
    cfg.MODEL.WEIGHTS = "torchvision://ResNet101_Weights.IMAGENET1K_V2"
    with pytest.raises(RunError) as error:
        check_inputs(cfg, training=False)
    assert str(tmp_path / "checkpoints/resnet101-cd907fc2.pth") in str(error.value)
    cfg.MODEL.WEIGHTS = "torchvision://ResNet102_Weights.NONE"
    with pytest.raises(RunError, match=r"has no weights 'ResNet102_Weights.NONE'"):
        check_inputs(cfg, training=False)


def test_isfile_of_a_torchvision_address_does_not_download(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    downloads = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: downloads.append(a))
    address = "torchvision://ResNet50_Weights.IMAGENET1K_V2"
    assert not PathManager.isfile(address)
    assert not PathManager.isfile("torchvision://ResNet51_Weights.NONE")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/resnet50-11ad3fa6.pth").touch()
    assert PathManager.isfile(address) and downloads == []


def caffe2_name(name):
    """detectron2's name of a C4 parameter -> Detectron's blob name."""
    parts = {
        "proposal_generator.rpn_head.conv": "conv_rpn",
        "proposal_generator.rpn_head.objectness_logits": "rpn_cls_logits",
        "proposal_generator.rpn_head.anchor_deltas": "rpn_bbox_pred",
        "roi_heads.box_predictor.cls_score": "cls_score",
        "roi_heads.box_predictor.bbox_pred": "bbox_pred",
        "roi_heads.mask_head.deconv": "conv5_mask",
        "roi_heads.mask_head.predictor": "mask_fcn_logits",
    }
    layer, kind = name.rsplit(".", 1)
    if layer in parts:
        return f"{parts[layer]}_{kind[0]}"
    name = name.removeprefix("backbone.").removeprefix("roi_heads.")
    stage, *rest = name.split(".")
    suffix = {"weight": "w", "norm.weight": "bn_s", "norm.bias": "bn_b"}
    if stage == "stem":
        kind = suffix[".".join(rest[1:])]
        return f"conv1_{kind}" if kind == "w" else f"res_conv1_{kind}"
    branch = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}[rest[1]]
    return f"{stage}_{rest[0]}_branch{branch}_{suffix['.'.join(rest[2:])]}"


def test_detectron1_pickle_detects_the_same(tmp_path):
    """Caffe2 puts background first: in the class scores, the box deltas and the masks."""
    stock = stock_r50()
    blobs = {}
    for name, tensor in stock.state_dict().items():
        if "running" in name or name.startswith("pixel"):
            continue
        value = tensor.numpy()
        if "cls_score" in name:
            value = np.concatenate([value[-1:], value[:-1]])
        elif "bbox_pred" in name:
            value = np.concatenate([np.zeros_like(value[:4]), value])
        elif "mask_head.predictor" in name:
            value = np.concatenate([np.zeros_like(value[:1]), value])
        blobs[caffe2_name(name)] = value
        blobs[caffe2_name(name) + "_momentum"] = value
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps({"blobs": blobs, "cfg": "..."}))
    weights = to_mrcnn(read_weights(str(tmp_path / "model_final.pkl")))
    ours = our_r50()
    fit = check_fit(weights, ours, backbone_alone=False)
    assert fit.left == [] and fit.missing == []
    ours.load_state_dict(weights, strict=False)
    same_detections(stock, ours)


@pytest.mark.parametrize(
    "config, message",
    [
        (("MODEL.RESNETS.DEPTH", 50), "res4 has 2 blocks in the weights and 6 in the model"),
        (("MODEL.ROI_HEADS.NUM_CLASSES", 7), "3 classes and the model 7: set MODEL.ROI_HEADS"),
        (("MODEL.RPN.HEAD_NAME", "StandardRPNHead"), "k or 2k scores"),
    ],
)
def test_a_file_for_another_model_gets_a_diagnosis(config, message):
    weights = build_model(tiny_cfg()).state_dict()
    with pytest.raises(ValueError, match=message):
        check_fit(weights, build_model(tiny_cfg(*config)), backbone_alone=False)


def test_fpn_into_c4_gets_a_diagnosis():
    weights = {
        "backbone.fpn_lateral2.weight": torch.zeros(1),
        "backbone.bottom_up.stem": torch.zeros(1),
    }
    with pytest.raises(ValueError, match=r"feature pyramid \(FPN\)"):
        check_fit(weights, build_model(tiny_cfg()), backbone_alone=False)


def test_unknown_file(tmp_path):
    torch.save({"embedding": torch.zeros(2)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"no weights of a known kind. .*embedding"):
        read_weights(str(tmp_path / "x.pth"))


def test_tool_prints_what_matched_and_fails_in_one_sentence(tmp_path):
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), tmp_path / "r50.pth")

    def tool(config):
        command = ("-m", "mrcnn_plugin", "weights", "--config-file", config, "--backbone")
        return run_python(*command, tmp_path / "r50.pth", tmp_path / "o.pth")

    done = tool("configs/mask_rcnn_R50_C4.yaml")
    assert done.returncode == 0, done.stderr
    assert "265 tensors matched" in done.stdout  # 53 convs with 4 tensors of norm each
    assert "STRIDE_IN_1X1: False" in done.stdout
    assert len(torch.load(tmp_path / "o.pth")["model"]) == 265
    done = tool("configs/mask_rcnn_R101_C4.yaml")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "res4 has 6 blocks in the weights and 23 in the model" in done.stderr


def test_a_converted_file_keeps_its_classes_and_is_a_model_file(tmp_path, capsys):
    """And without names of classes, it has the weights only."""
    config = tmp_path / "tiny.yaml"
    names = tuple(f"name {i}" for i in range(3))
    config.write_text(tiny_cfg("MODEL.RPN.HEAD_NAME", "StandardRPNHead").dump())
    old = tiny_model_file(
        tmp_path / "old.pth", "MODEL.RPN.HEAD_NAME", "StandardRPNHead", class_names=list(names)
    )
    unnamed = tmp_path / "unnamed.pth"
    torch.save({"model": read_model_file(old).weights}, unnamed)
    arguments = ["--config-file", str(config)]
    opts = ["MODEL.RPN.HEAD_NAME", "MRCNNRPNHead"]
    weights_command.main([*arguments, str(old), str(tmp_path / "new.pth"), *opts])
    assert Predictor(tmp_path / "new.pth", device="cpu").class_names == list(names)
    assert "3 classes: name 0, name 1, name 2. The file is a model" in capsys.readouterr().out
    weights_command.main([*arguments, str(unnamed), str(tmp_path / "new.pth"), *opts])
    assert "Pass DATASETS.CLASS_NAMES to write them" in capsys.readouterr().out
    with pytest.raises(RunError, match="has no config, class_names"):
        read_model_file(tmp_path / "new.pth")
