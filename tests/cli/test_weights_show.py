"""`mrcnn weights show` prints what a file contains."""

import pytest
import torch
import yaml
from builders import tiny_model_file

from mrcnn_plugin.checkpoint.model_file import read_model_file
from mrcnn_plugin.cli import weights
from mrcnn_plugin.errors import RunError


def test_a_model_file(tmp_path, capsys):
    path = tiny_model_file(tmp_path / "model.pth", score_thresholds=[0.25, None, 0.5])
    weights.main(["show", str(path)])
    printed = capsys.readouterr().out
    tensors = read_model_file(path).weights
    assert printed.startswith(f"{path}: model file of mrcnn_plugin 0.")
    assert "classes     apple (score >= 0.25), cup, pen (score >= 0.50)\n" in printed
    assert "backbone    ResNet-18, build_mrcnn_resnet_c4_backbone\n" in printed
    assert "shorter side 96, longer side at most 160, BGR\n" in printed
    assert f"{len(tensors)} with {sum(t.numel() for t in tensors.values()):,} values" in printed
    assert "  MODEL.RESNETS.DEPTH 18\n" in printed
    assert "MODEL.RPN.NMS_THRESH" not in printed  # as by default


def test_the_whole_config_is_yaml(tmp_path, capsys):
    path = tiny_model_file(tmp_path / "model.pth")
    weights.main(["show", str(path), "--config"])
    assert yaml.safe_load(capsys.readouterr().out)["MODEL"]["RESNETS"]["DEPTH"] == 18


def test_weights_only(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save({"model": {"backbone.a": torch.zeros(3, 4), "backbone.b": torch.zeros(5)}}, path)
    weights.main(["show", str(path)])
    printed = capsys.readouterr().out
    assert "weights without config and classes\ntensors     2 with 17 values" in printed
    assert "backbone.a, backbone.b" in printed
    with pytest.raises(RunError, match="has weights only, no config"):
        weights.main(["show", str(path), "--config"])


def test_a_file_that_is_none_or_is_missing(tmp_path):
    (tmp_path / "text.pth").write_text("text")
    for name, message in (("text.pth", "is not a weight file"), ("no.pth", "does not exist")):
        with pytest.raises(RunError, match=message):
            weights.main(["show", str(tmp_path / name)])
