"""benchmarks/timing.py measures both sides alternately and reports the ratio of each repeat."""

import importlib.util

import pytest
from builders import ROOT


@pytest.fixture
def timing(monkeypatch):
    spec = importlib.util.spec_from_file_location("timing", ROOT / "benchmarks/timing.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_row_has_the_medians_and_the_quartiles_of_the_ratios(timing):
    result = timing.Comparison([1.0, 2.0, 4.0], [0.5, 0.5, 0.5])  # ratios 2, 4 and 8
    assert result.row("name") == "| name | 2000.00 | 500.00 | 4.00 | 2.00-8.00 |"


def test_sides_alternate_and_each_starts_every_other_repeat(timing, monkeypatch):
    calls = []
    monkeypatch.setattr(timing, "seconds", lambda call, device: calls.append(call()) or 1.0)
    result = timing.compare(lambda: "them", lambda: "us", repeats=3, device="cpu")
    warm_up, repeats = calls[:2], calls[2:]
    assert warm_up == ["them", "us"]
    assert repeats == ["them", "us", "us", "them", "them", "us"]
    assert result == ([1.0] * 3, [1.0] * 3)


def test_a_short_call_is_timed_several_times_per_repeat(timing, monkeypatch):
    monkeypatch.setattr(timing, "seconds", lambda call, device: call())
    times = iter([0.005, 1.0, *(0.004, 0.006, 0.005, 0.9), 2.0])
    result = timing.compare(lambda: next(times), lambda: next(times), repeats=1, device="cpu")
    assert result.reference == [pytest.approx(0.0055)]  # the median of four, 0.02 s in all
    assert result.ours == [2.0]
