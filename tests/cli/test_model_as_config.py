"""`--config-file model_best.pth`: nothing but the model file and data are needed to go on."""

import importlib.util

import pytest
import torch
from builders import forget, tiny_model_file
from detectron2.data import DatasetCatalog, MetadataCatalog

from mrcnn_plugin.checkpoint.model_file import read_model_file
from mrcnn_plugin.cli.train import argument_parser, train
from mrcnn_plugin.data import make_shapes
from mrcnn_plugin.engine import load_config
from mrcnn_plugin.engine.setup import setup
from mrcnn_plugin.errors import RunError

NAMES = ("square", "circle", "pen")
# Of a run on another machine.
OLD = {
    "DATASETS.FILES": ("old=/gone/old.json:/gone",),
    "DATASETS.TRAIN": ("old",),
    "DATASETS.TEST": ("old",),
    "DATASETS.VAL_FRACTION": 0.5,
    "DATASETS.DROP_BAD": True,
    "OUTPUT_DIR": "/gone/output",
    "MODEL.DEVICE": "cpu",
    "TEST.EXPECTED_RESULTS": [["segm", "AP", 30.0, 1.0]],
    "SOLVER.MAX_ITER": 77,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 0.0123,
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "DATASETS.CLASS_NAMES": NAMES,
}


@pytest.fixture(params=["model.pth", "model.safetensors"])
def model(request, tmp_path, monkeypatch):
    if request.param.endswith(".safetensors"):
        pytest.importorskip("safetensors", reason="pip install safetensors to run this test")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    options = [word for pair in OLD.items() for word in pair]
    return str(tiny_model_file(tmp_path / request.param, *options))


@pytest.fixture
def data(tmp_path):
    """circle, square and triangle, as "new=..."."""
    make_shapes(tmp_path / "new/new.json", 4, seed=3, size=64)
    yield f"new={tmp_path}/new/new.json:{tmp_path}/new"
    for name in {"new", "new_split_train", "new_split_val"} & {*DatasetCatalog.list()}:
        forget(name)


def parse(model, *arguments):
    return argument_parser().parse_args(["--config-file", model, *map(str, arguments)])


def test_what_belongs_to_the_earlier_run_is_not_used(model):
    cfg = load_config(model, ["SEED", 5])
    assert model == cfg.MODEL.WEIGHTS and cfg.DATASETS.CLASS_NAMES == NAMES and cfg.SEED == 5
    defaults = load_config()
    for key in OLD:
        parent, name = key.split(".") if "." in key else (None, key)
        found, default = (c[parent][name] if parent else c[name] for c in (cfg, defaults))
        if key == "SOLVER.MAX_ITER":
            assert found == 0  # inferred from the number of images
        elif key.startswith(("SOLVER", "DATALOADER", "INPUT")) or key.endswith("CLASS_NAMES"):
            assert found == OLD[key]
        else:
            assert found == default != OLD[key], key


def test_fine_tuning_copies_rows_by_name(model, data, tmp_path, capsys):
    output = tmp_path / "output"
    before = read_model_file(model).weights["roi_heads.mask_head.predictor.weight"]
    args = parse(model, "--train", data, "SOLVER.MAX_ITER", 1, "SOLVER.BASE_LR", 1e-9)
    args.opts += ["OUTPUT_DIR", str(output)]
    train(args)
    printed = capsys.readouterr().out
    assert f"The config is that of {model}, without the datasets, the schedule" in printed
    assert "copied for 2 classes (circle, square); those of 1 classes (triangle) start" in printed
    content = read_model_file(output / "model_final.pth")
    assert content.class_names == ["circle", "square", "triangle"]
    after = content.weights["roi_heads.mask_head.predictor.weight"]
    for new, old in ((0, 1), (1, 0)):
        assert (after[new] - before[old]).abs().max() < 1e-6 < (after[2] - before[2]).abs().max()
    assert content.cfg().DATASETS.TRAIN == ("new",) and content.cfg().SOLVER.BASE_LR == 1e-9


def test_the_schedule_is_that_of_the_new_data(model, data):
    cfg = setup(parse(model, "--train", data, "--epochs", 3))
    assert cfg.SOLVER.MAX_ITER == 6 and cfg.DATASETS.TEST == () and cfg.OUTPUT_DIR == "./output"
    cfg = setup(parse(model, "--train", data))
    assert cfg.SOLVER.MAX_ITER == 200  # 100 epochs, as of every fine-tuning


def test_evaluation_needs_the_file_and_data(model, data):
    """Classes keep the indices of the model, whatever the order in the data."""
    arguments = ("--eval-only", "--val", data, "--drop-bad", "TEST.REPORT", False)
    assert {"bbox", "segm"} <= train(parse(model, *arguments)).keys()
    cfg = load_config("output/config.yaml")
    assert cfg.DATASETS.CLASS_NAMES == NAMES and cfg.DATASETS.TEST == ("new",)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    with pytest.raises(RunError, match=r"DATASETS.TEST is empty. Pass --eval-only with --val name"):
        setup(parse(model, "--eval-only"))
    with pytest.raises(RunError, match=r"DATASETS.TRAIN is empty. Pass --train name"):
        setup(parse(model))


def test_weights_without_a_config_are_an_error(tmp_path):
    torch.save({"model": {}}, tmp_path / "weights.pth")
    with pytest.raises(RunError, match="has no config, class_names; expected a"):
        load_config(str(tmp_path / "weights.pth"))


def test_lvis_is_needed_for_its_datasets(model, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "lvis" else find(name, *a)
    )
    DatasetCatalog.register("like_lvis", list)
    MetadataCatalog.get("like_lvis").set(evaluator_type="lvis")
    try:
        with pytest.raises(RunError, match=r"'like_lvis' has .*'lvis'.* `pip install lvis`"):
            setup(parse(model, "--eval-only", "DATASETS.TEST", "('like_lvis',)"))
    finally:
        forget("like_lvis")
