"""A model file holds everything to use a model, as plain values."""

import pytest
import torch
import yaml
from builders import tiny_cfg, train
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from mrcnn_plugin import Predictor
from mrcnn_plugin.checkpoint.model_file import (
    class_names,
    description,
    read_model_file,
    write_model_file,
)
from mrcnn_plugin.cli import weights
from mrcnn_plugin.errors import ConfigError


@pytest.fixture(params=["model.pth", "model.safetensors"])
def path(request, tmp_path):
    if request.param.endswith(".safetensors"):
        pytest.importorskip("safetensors", reason="pip install safetensors to run this test")
    return tmp_path / request.param


def test_what_is_written_is_read(path):
    cfg = tiny_cfg("DATASETS.CLASS_NAMES", ("a", "ü", "c"), "MODEL.WEIGHTS", "/home/me/secret.pth")
    model = build_model(cfg)
    write_model_file(path, model.state_dict(), description(cfg, [0.1, 0.2, 0.3]))
    content = read_model_file(path)
    assert content.class_names == ["a", "ü", "c"]
    assert content.score_thresholds == [0.1, 0.2, 0.3]
    assert content.cfg().MODEL.WEIGHTS == "" and "secret" not in content.config
    cfg.MODEL.WEIGHTS = ""
    assert yaml.safe_load(content.cfg().dump()) == yaml.safe_load(cfg.dump())
    assert content.weights.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(content.weights[name], tensor), name


def test_the_files_of_a_run_are_model_files(shapes_cfg):
    cfg = shapes_cfg("TEST.BEST_METRIC", "bbox/AP", "SOLVER.EMA_DECAY", 0.5, "TEST.EVAL_PERIOD", 1)
    train(cfg)
    for name in ("model_final", "model_best", "model_ema"):
        content = read_model_file(f"{cfg.OUTPUT_DIR}/{name}.pth")
        assert content.class_names == ["circle", "square", "triangle"]
        assert len(content.score_thresholds) == 3
        assert content.cfg().MODEL.ROI_HEADS.NUM_CLASSES == 3
        Predictor(content, device="cpu")
    saved = torch.load(f"{cfg.OUTPUT_DIR}/model_final.pth", weights_only=True)
    assert saved["preprocessing"]["channels"] == cfg.INPUT.FORMAT and "trainer" in saved


def test_names_of_classes(shapes_cfg):
    cfg = shapes_cfg()
    DatasetCatalog.get("drawn_train")  # detectron2 learns the names when it reads the file
    assert class_names(cfg) == ["circle", "square", "triangle"]
    cfg = tiny_cfg("DATASETS.TRAIN", (), "DATASETS.TEST", ())
    assert class_names(cfg) == [
        "class 0",
        "class 1",
        "class 2",
    ]


def test_code_in_a_config_is_not_executed(tmp_path):
    canary = tmp_path / "canary"
    config = f'OUTPUT_DIR: !!python/object/apply:os.system ["touch {canary}"]'
    base = f"_BASE_: {tmp_path}/base.yaml"
    (tmp_path / "base.yaml").write_text("SEED: 5")
    bomb = "a0: &a0 {x: 1}\n" + "".join(
        f"a{k}: &a{k} {{{', '.join(f'k{i}: *a{k - 1}' for i in range(9))}}}\n" for k in range(1, 9)
    )
    for text in (config, base, "[" * 5000, bomb, "NO_SUCH_KEY: 1"):
        write_model_file(
            tmp_path / "m.pth", {}, {"config": text, "class_names": [], "version": "9.9"}
        )
        with pytest.raises(ConfigError, match=r"(?s)config in the model file.*mrcnn_plugin 9\.9"):
            read_model_file(tmp_path / "m.pth").cfg()
    assert not canary.exists()


@pytest.mark.parametrize(
    "content, message",
    [(b"", "is not a model file"), (b"PK garbage", "is not a model file"), (None, "not exist")],
)
def test_a_file_that_cannot_be_read(content, message, path):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_model_file(path)


@pytest.mark.parametrize(
    "key, value",
    [
        ("model", {"a": 1}),
        ("class_names", 5),
        ("class_names", [1]),
        ("score_thresholds", [0.1]),
        ("score_thresholds", ["a", "b"]),
    ],
)
def test_values_of_other_types_are_named(key, value, tmp_path):
    content = {"model": {}, "config": "", "class_names": ["a", "b"], "score_thresholds": None}
    torch.save(content | {key: value}, tmp_path / "m.pth")
    with pytest.raises(ConfigError, match=f"'{key}' has another type or length"):
        read_model_file(tmp_path / "m.pth")


def test_a_changed_byte_in_the_weights_is_found(tmp_path):
    about = {"config": "", "class_names": [], "version": "1"}
    write_model_file(tmp_path / "m.pth", {"weight": torch.full((4096,), 7.0)}, about)
    content = bytearray((tmp_path / "m.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "m.pth").write_bytes(content)
    for use in (read_model_file, lambda path: weights.main(["show", str(path)])):
        with pytest.raises(ConfigError, match=r"is damaged: the checksum of its record"):
            use(tmp_path / "m.pth")


def test_weights_alone_are_not_a_model_file(tmp_path):
    torch.save({"model": {}}, tmp_path / "model.pth")
    with pytest.raises(ConfigError, match=r"has no config, class_names; expected a model_final"):
        read_model_file(tmp_path / "model.pth")


def test_asking_for_the_names_registers_no_dataset():
    cfg = tiny_cfg("DATASETS.TRAIN", ("never_registered",), "DATASETS.TEST", ())
    assert class_names(cfg) == ["class 0", "class 1", "class 2"]
    assert "never_registered" not in MetadataCatalog.list()
