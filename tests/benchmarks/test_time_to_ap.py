"""benchmarks/time_to_ap.py interpolates between evaluations, and both sides build one network."""

import importlib.util

import pytest
from builders import ROOT
from detectron2.modeling import build_model


@pytest.fixture
def time_to_ap():
    spec = importlib.util.spec_from_file_location("time_to_ap", ROOT / "benchmarks/time_to_ap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUN = [
    {"iteration": 10, "minutes": 1.0, "bbox": 30.0, "segm": 20.0},
    {"iteration": 20, "minutes": 3.0, "bbox": 50.0, "segm": 40.0},
]


def test_minutes_are_interpolated(time_to_ap):
    assert time_to_ap.minutes_to(RUN, 10) == 0.5
    assert time_to_ap.minutes_to(RUN, 30) == 2.0
    assert time_to_ap.minutes_to(RUN, 41) is None


def test_table_compares_medians(time_to_ap):
    slow = [{**result, "minutes": 2 * result["minutes"]} for result in RUN]
    text = time_to_ap.table({"detectron2": [slow, slow], "float32": [RUN, slow]}, ap=30)
    assert "| detectron2, float32 | 4.0 (4.0-4.0) | 1.00 |" in text
    assert "| mrcnn_plugin, float32 | 3.0 (2.0-4.0) | 1.33 | 4.5 (3.0-6.0) |" in text
    text = time_to_ap.table({"detectron2": [RUN], "float32": [slow]}, ap=41)
    assert text.count("not reached by 1 of 1 runs | - |") == 2


def test_both_sides_have_the_same_parameters(time_to_ap, tmp_path):
    shapes = []
    for side in ("detectron2", "float32"):
        cfg = time_to_ap.config(side, tmp_path, seed=1, iterations=1)
        model = build_model(cfg)
        shapes.append({name: tuple(p.shape) for name, p in model.state_dict().items()})
    assert shapes[0] == shapes[1]
