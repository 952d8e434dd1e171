"""torchvision's own tests of RoIAlign and NMS, without and with `accelerate_torchvision`."""

import os

import pytest
from checkouts import outcomes

CHECKOUT = os.environ.get("TORCHVISION_CHECKOUT")
PLUGIN = "import mrcnn_plugin, torchvision\nmrcnn_plugin.accelerate_torchvision()\n"
SELECTED = "TestRoIAlign or TestMultiScaleRoIAlign or TestNMS"


@pytest.mark.slow
@pytest.mark.skipif(CHECKOUT is None, reason="set TORCHVISION_CHECKOUT to the path of a checkout")
def test_they_pass_with_our_kernels(tmp_path):
    theirs, ours = (
        outcomes(tmp_path, CHECKOUT, ["test/test_ops.py"], plugin, "-k", SELECTED)
        for plugin in ("", PLUGIN)
    )
    assert list(theirs.values()).count("PASSED") > 30
    assert ours == theirs
