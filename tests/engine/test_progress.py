"""The live line on a terminal, and plain lines everywhere else."""

import importlib.util
import io
import logging
import sys

from builders import train
from detectron2.utils.events import EventStorage

from mrcnn_plugin.engine.hooks.progress import ProgressLine, progress_text


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_line():
    """After 10 of 100 iterations of 2 s, the other 90 take 3 minutes."""
    with EventStorage(9) as storage:
        storage.put_scalars(time=2.0, data_time=0.25, total_loss=1.5, cur_iter=9)
        storage.put_scalar("lr", 0.02, smoothing_hint=False)
        line = progress_text(storage, 100)
    expected = "10/100 10%  eta 0:03:00  2 s/it  data 0.25  loss 1.5  lr 0.02  "
    assert line.startswith(expected) and line.endswith(" GiB") and len(line) < 80


def test_the_first_line_has_what_is_known():
    with EventStorage(0) as storage:
        assert progress_text(storage, 4).startswith("1/4 25%  ")


def test_without_the_resource_module(monkeypatch):
    """Windows does not have it."""
    monkeypatch.setitem(sys.modules, "resource", None)  # importing it raises ImportError
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    spec = importlib.util.find_spec(ProgressLine.__module__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    with EventStorage(0) as storage:
        assert copy.progress_text(storage, 4) == "1/4 25%"


def run_in(stream, shapes_cfg, monkeypatch):
    """What is written to a stream that detectron2 and this package log to."""
    handler = logging.StreamHandler(stream)
    events = logging.getLogger("mrcnn_plugin.detectron2.utils.events")  # any name that ends so
    logger = logging.getLogger("mrcnn_plugin")
    logger.addHandler(handler)
    monkeypatch.setattr("mrcnn_plugin.engine.hooks.progress._SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(
        "mrcnn_plugin.engine.build_hooks.ProgressLine", lambda: ProgressLine(stream=stream)
    )
    monkeypatch.setattr(ProgressLine, "before_step", lambda self: events.warning("a metrics line"))
    try:
        train(shapes_cfg("TEST.REPORT", False))
    finally:
        logger.removeHandler(handler)
    assert not handler.filters
    return stream.getvalue()


def test_on_a_terminal_one_line_is_rewritten(shapes_cfg, monkeypatch):
    written = run_in(Terminal(), shapes_cfg, monkeypatch)
    assert "\r\x1b[K1/2 50%" in written and "\r\x1b[K2/2 100%" in written
    assert "a metrics line" not in written  # it is in the file
    assert written.endswith("\r\x1b[K")


def test_elsewhere_lines_are_plain(shapes_cfg, monkeypatch):
    written = run_in(io.StringIO(), shapes_cfg, monkeypatch)
    assert written.count("a metrics line\n") == 2 and "\x1b" not in written
