"""AOTInductor's wrong convolutions (docs/deploy.md) do not get past the check."""

import pytest
import torch
from builders import tiny_model_file

from mrcnn_plugin.cli.export import main
from mrcnn_plugin.errors import RunError
from mrcnn_plugin.export import aoti

OPT_LEVEL = torch._inductor.config.patch("aot_inductor.compile_wrapper_opt_level", "O0")  # faster


@pytest.mark.slow
def test_the_layout_optimization_is_found(tmp_path, monkeypatch):
    opts = ("MODEL.MASK_ON", False)  # compiles faster
    model = tiny_model_file(tmp_path / "model.pth", *opts, score_thresholds=[0.3, 0.3, 0.3])
    monkeypatch.setattr(aoti, "LAYOUT_OPTIMIZATION", True)
    out = tmp_path / "out/model.pt2"
    with OPT_LEVEL, pytest.raises(RunError, match=r"has not been written, .* in 6 of 6 images"):
        main([str(model), "--format", "aoti", "--out", str(out), "--check"])
    assert not list(out.parent.iterdir())


def test_no_compiler(tmp_path, monkeypatch):
    model = tiny_model_file(tmp_path / "model.pth")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RunError, match="there is no 'no-such-compiler'"):
        main([str(model), "--format", "aoti", "--out", str(tmp_path / "model.pt2")])
