"""FrozenBN folded into its convolution computes what detectron2's modules compute one by one."""

import copy
import pickle

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn

from mrcnn_plugin import fold_frozen_bn
from mrcnn_plugin.modeling.backbone import resnet_c4


def conv_with(norm, **kwargs):
    """A 3x3 convolution of 4 channels into 6, whose norm has random statistics."""
    conv = Conv2d(4, 6, 3, padding=1, norm=norm, **kwargs)
    generator = torch.Generator().manual_seed(0)
    for buffer in [*conv.norm.buffers(), *conv.norm.parameters()]:
        if buffer.is_floating_point():
            buffer.data = torch.rand(buffer.shape, generator=generator) + 0.5
    return conv


@pytest.fixture
def pair():
    """(detectron2's module, a folded copy of it), with statistics that are no identity."""
    theirs = conv_with(FrozenBatchNorm2d(6), bias=False)
    ours = copy.deepcopy(theirs)
    assert fold_frozen_bn(ours) == 1 and fold_frozen_bn(ours) == 0
    return theirs, ours


X = torch.arange(2 * 4 * 5 * 7, dtype=torch.float32).reshape(2, 4, 5, 7).sin()


def assert_same(theirs, ours, x=X):
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_outputs_and_gradients(pair):
    gradients = []
    for module in pair:
        x = X.clone().requires_grad_()
        module(x).square().sum().backward()
        gradients.append((x.grad, module.weight.grad))
    assert_same(*pair)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_bias_and_activation(bias):
    theirs = conv_with(FrozenBatchNorm2d(6), bias=bias, activation=nn.ReLU())
    ours = copy.deepcopy(theirs)
    fold_frozen_bn(ours)
    assert_same(theirs, ours)


CHANGES = {
    "load_state_dict": lambda m, state: m.load_state_dict(state),
    "in place, as the moving average of the weights": lambda m, state: [
        tensor.copy_(state[name]) for name, tensor in m.state_dict().items()
    ],
    "another tensor as .data": lambda m, state: [
        setattr(tensor, "data", state[name].clone())
        for name, tensor in [*m.named_parameters(), *m.named_buffers()]
    ],
    "another dtype and back": lambda m, state: m.half().float(),
    "another norm": lambda m, state: setattr(m, "norm", copy.deepcopy(m.norm).requires_grad_()),
    "another batch norm, frozen": lambda m, state: setattr(
        m, "norm", FrozenBatchNorm2d.convert_frozen_batchnorm(nn.BatchNorm2d(6))
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_kept_fold_follows_every_change(pair, change):
    for module in pair:
        module.requires_grad_(False).eval()(X)  # keeps a fold
    state = {name: t * 0.5 + 0.1 for name, t in pair[0].state_dict().items()}
    for module in pair:
        change(module, state)
    assert_same(*pair)


def test_data_that_is_changed_in_training_is_read_again(pair):
    """An optimizer that writes to `.data` leaves no trace in the version of a parameter."""
    for module in pair:
        with torch.no_grad():
            module.eval()(X)
        module.train().weight.data.mul_(3)
        module.eval()
    with torch.no_grad():
        assert_same(*pair)


def test_the_fold_is_computed_once_without_gradients_and_is_not_copied(pair, monkeypatch):
    _, ours = pair
    folds = []
    fold = type(ours)._fold
    monkeypatch.setattr(
        type(ours), "_fold", lambda self, dtype: folds.append(dtype) or fold(self, dtype)
    )
    with torch.inference_mode():
        ours.eval()(X)
    with torch.no_grad():
        ours(X)
    assert len(folds) == 1
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert "_kept" in vars(ours) and "_kept" not in vars(copied)
        torch.testing.assert_close(copied(X), ours(X))
    # What inference mode kept can be used in a step that needs the gradient of the input.
    ours.requires_grad_(False)(X.clone().requires_grad_()).sum().backward()


def test_scripted_and_traced_graphs_are_those_of_detectron2(pair):
    theirs, ours = (module.eval().requires_grad_(False) for module in pair)
    ours(X)  # keeps a fold
    for theirs_graph, ours_graph in (
        (torch.jit.trace(theirs, X), torch.jit.trace(ours, X)),
        (torch.jit.script(theirs), torch.jit.script(ours)),
    ):
        assert torch.equal(ours_graph(X), theirs_graph(X))
        kinds = [[n.kind() for n in g.inlined_graph.nodes()] for g in (theirs_graph, ours_graph)]
        assert kinds[0] == kinds[1]


@pytest.mark.parametrize("norm", ["BN", "GN"])
def test_other_norms_are_detectron2s(norm):
    theirs = conv_with(nn.BatchNorm2d(6) if norm == "BN" else nn.GroupNorm(2, 6), bias=False)
    ours = copy.deepcopy(theirs)
    fold_frozen_bn(ours)
    assert torch.equal(ours(X), theirs(X))
    if norm == "BN":  # and the running statistics have moved alike; frozen later, it is folded
        for module in (theirs, ours):
            FrozenBatchNorm2d.convert_frozen_batchnorm(module)
        assert_same(theirs, ours)


def test_autocast_folds_in_float32_before_it_rounds(pair):
    theirs, ours = (module.eval().requires_grad_(False) for module in pair)
    exact = theirs(X)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = ours(X)
        assert rounded.dtype == torch.bfloat16
        torch.testing.assert_close(rounded.float(), exact, rtol=0.02, atol=0.05)
    assert ours(X).dtype == torch.float32  # the kept fold of another dtype is not used
    assert_same(theirs, ours)


def test_a_backbone_is_channels_last_and_its_state_dict_is_not():
    backbone = resnet_c4(depth=50, stem_out_channels=8, res2_out_channels=16)
    assert all(type(m) is not Conv2d for m in backbone.modules())
    with torch.no_grad():
        features = backbone(torch.rand(1, 3, 64, 96))["res4"]
    assert features.is_contiguous(memory_format=torch.channels_last)
    assert all(t.is_contiguous() for t in backbone.state_dict().values())
    block = BottleneckBlock(8, 16, bottleneck_channels=4, norm="FrozenBN")
    assert fold_frozen_bn(block) == 4
