"""Weight files of every kind and hostile ones, through the functions and the command line."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from builders import tiny_cfg
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from hostile_files import Touch

from mrcnn_plugin.checkpoint.weight_files import load_torch_file, load_weight_file
from mrcnn_plugin.checkpoint.weights import read_weights
from mrcnn_plugin.cli import weights as weights_command
from mrcnn_plugin.engine import ReportingCheckpointer, check_inputs
from mrcnn_plugin.errors import RunError

TENSOR = np.arange(6, dtype=np.float32).reshape(2, 3)
CAFFE2 = {"conv1_w": TENSOR, "conv1_w_momentum": TENSOR}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "content",
    [
        {"model": {"a.weight": TENSOR}, "__author__": "zoo", "matching_heuristics": True},
        {"blobs": CAFFE2, "cfg": "TRAIN: {}"},
        CAFFE2,
    ],
    ids=["zoo", "detectron", "msra"],
)
def test_pkl_is_read_as_detectron2_reads_it(tmp_path, content, protocol):
    file = tmp_path / "weights.pkl"
    file.write_bytes(pickle.dumps(content, protocol))
    expected = DetectionCheckpointer(torch.nn.Linear(1, 1))._load_file(str(file))
    found = load_weight_file(file)
    assert found.keys() == expected.keys() and found["model"].keys() == expected["model"].keys()
    assert found["__author__"] == expected["__author__"]
    for name, value in found["model"].items():
        np.testing.assert_array_equal(value, expected["model"][name])


def test_pyth_is_read_as_detectron2_reads_it(tmp_path):
    file = tmp_path / "weights.pyth"
    state = {"stem.weight": torch.ones(2), "stem.num_batches_tracked": torch.tensor(1)}
    torch.save({"model_state": state, "epoch": 3}, file)
    expected = DetectionCheckpointer(torch.nn.Linear(1, 1))._load_file(str(file))
    found = load_weight_file(file)
    assert found.keys() == expected.keys() and found["__author__"] == "pycls"
    assert list(found["model"]) == list(expected["model"]) == ["stem.weight"]


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("is_zip", [False, True])
def test_torch_files(tmp_path, mmap, is_zip):
    file = tmp_path / "weights.pth"
    content = {"model": {"a": torch.arange(2)}, "iteration": 3}
    torch.save(content, file, _use_new_zipfile_serialization=is_zip)
    found = load_weight_file(file, mmap=mmap)
    assert found["model"]["a"].tolist() == [0, 1] and found["iteration"] == 3
    torch.save(content["model"], file, _use_new_zipfile_serialization=is_zip)
    found = load_weight_file(file, mmap=mmap)
    assert list(found) == ["model"] and found["model"]["a"].tolist() == [0, 1]


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "ema"])
def test_a_state_dict_under_another_key(tmp_path, key):
    """Through the function and through the checkpointer."""
    saved = torch.nn.Linear(2, 1)
    content = {key: saved.state_dict(), "epoch": 3, "optimizer": {"state": {}, "lr": 0.1}}
    torch.save(content, tmp_path / "w.pth")
    assert load_weight_file(tmp_path / "w.pth")["model"].keys() == {"weight", "bias"}
    ReportingCheckpointer(loaded := torch.nn.Linear(2, 1)).load(str(tmp_path / "w.pth"))
    assert torch.equal(loaded.weight, saved.weight)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"net": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}}, "2 of .* entries net, ema"),
        ({"epoch": 3, "config": {"lr": 0.1}}, "0 of its entries are state dicts"),
        ({}, r"0 of .* \(found the entries none\)"),
        ({"model": {"a": torch.ones(1), "step": 3}}, "'step' is a int; expected tensors only"),
        ({"a": torch.ones(1), "step": 3}, "'step' is a int; expected tensors only"),
    ],
)
def test_an_ambiguous_state_dict_is_one_sentence(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pth")
    checkpointer = ReportingCheckpointer(torch.nn.Linear(2, 1))
    for load in (load_weight_file, checkpointer.load):
        with pytest.raises(RunError, match=rf"w.pth' is not a weight file: {message}"):
            load(str(tmp_path / "w.pth"))


def test_safetensors_of_other_programs(tmp_path):
    """Their metadata are no json."""
    safetensors = pytest.importorskip("safetensors.torch", reason="pip install safetensors")
    file = tmp_path / "w.safetensors"
    safetensors.save_file({"a.weight": torch.ones(2)}, file, metadata={"format": "pt"})
    found = load_weight_file(file)
    assert found["format"] == "pt" and found["model"]["a.weight"].tolist() == [1, 1]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"w.safetensors' is not a weight file: it is damaged"):
        load_weight_file(file)


def write_hostile(kind: str, folder, canary):
    """A weight file that would create the file `canary`."""
    content = {"model": {"w": Touch(canary)}, "model_state": {"w": Touch(canary)}}
    file = folder / kind.split()[-1]
    if "pickle" in kind:
        file.write_bytes(pickle.dumps(content, 2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization="old" not in kind)
    return file


HOSTILE = ["evil.pth", "old evil.pth", "pickle evil.pth", "evil.pyth", "pickle evil.pkl"]


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_one_sentence(tmp_path, kind):
    """At the start of training and evaluation, and in `mrcnn weights`."""
    canary = tmp_path / "canary"
    file = write_hostile(kind, tmp_path, canary)
    cfg = tiny_cfg("DATASETS.TEST", (), "MODEL.WEIGHTS", str(file))
    arguments = ["--config-file", "mask_rcnn_R50_C4.yaml", str(file), str(tmp_path / "out.pth")]
    for call in (
        lambda: check_inputs(cfg, training=False),
        lambda: weights_command.main(arguments),
        lambda: read_weights(str(file)),
    ):
        with pytest.raises(RunError, match=rf"{file}' is not a weight file") as error:
            call()
        text = str(error.value)
        assert "\n" not in text and "weights_only" not in text
        assert "names the Python object 'posix.system'" in text or kind == "pickle evil.pth"
    assert not canary.exists() and not (tmp_path / "out.pth").exists()


def test_a_compressed_file_cannot_declare_gigabytes(tmp_path):
    """torch reads compressed records, although it does not write any."""
    torch.save({"model": {"w": torch.zeros(2**24)}}, tmp_path / "whole.pth")
    with (
        zipfile.ZipFile(tmp_path / "whole.pth") as whole,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for record in whole.namelist():
            bomb.writestr(record, whole.read(record))
    assert (tmp_path / "bomb.pth").stat().st_size < 2**17
    with pytest.raises(RunError, match=r"bomb.pth' is not a .* declares 671\d{5} bytes of tensors"):
        load_torch_file(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    "content", [[1], {"model": torch.zeros(2)}, {"model": {1: torch.zeros(2)}}, {"model": None}]
)
def test_a_file_without_names_is_an_error(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content if content == [1] else {"blobs": [2]}))
    for name in ("x.pth", "x.pkl"):
        with pytest.raises(RunError, match=f"{name}' is not a weight file: it holds a "):
            load_weight_file(tmp_path / name)


def test_a_directory_is_an_error_of_the_system(tmp_path):
    with pytest.raises(OSError):
        load_weight_file(tmp_path)


def test_the_model_of_a_plain_file_loads(tmp_path):
    model = build_model(tiny_cfg())
    torch.save(model.state_dict(), tmp_path / "w.pth")
    assert load_weight_file(tmp_path / "w.pth")["model"].keys() == model.state_dict().keys()


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_checkpointer_executes_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    file = write_hostile(kind, tmp_path, tmp_path / "canary")
    with pytest.raises(RunError, match="is not a weight file"):
        ReportingCheckpointer(torch.nn.Linear(1, 1)).load(str(file))
    assert not (tmp_path / "canary").exists()


def test_resume_executes_nothing(tmp_path):
    """A pickle with a zip archive behind it passes the checksums of a checkpoint."""
    file = write_hostile("pickle evil.pkl", tmp_path, tmp_path / "canary")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("data", b"0")
    (tmp_path / "last_checkpoint").write_text(file.name)
    checkpointer = ReportingCheckpointer(torch.nn.Linear(1, 1), str(tmp_path))
    assert checkpointer.get_checkpoint_file() == str(file)
    with pytest.raises(RunError, match="is not a weight file"):
        checkpointer.resume_or_load("", resume=True)
    assert not (tmp_path / "canary").exists()


def test_the_cache_of_torchvision_executes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    write_hostile("evil.pth", tmp_path, tmp_path / "canary").rename(
        tmp_path / "checkpoints/resnet50-11ad3fa6.pth"
    )
    cfg = tiny_cfg("DATASETS.TEST", ())
    cfg.MODEL.WEIGHTS = "torchvision://ResNet50_Weights.IMAGENET1K_V2"
    with pytest.raises(RunError, match=r"resnet50-11ad3fa6.pth' is not a weight file") as error:
        check_inputs(cfg, training=False)
    assert "weights_only" not in str(error.value)
    assert not (tmp_path / "canary").exists()


def test_proposal_files_are_rejected():
    """detectron2 reads them with pickle."""
    cfg = tiny_cfg("DATASETS.TEST", (), "MODEL.LOAD_PROPOSALS", True)
    with pytest.raises(RunError, match=r"MODEL.LOAD_PROPOSALS is True, but detectron2 reads"):
        check_inputs(cfg, training=False)
