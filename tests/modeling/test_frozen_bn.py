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
from mrcnn_plugin.modeling.frozen_bn import fuse_frozen_bn


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
    "in place through .data, which leaves the version of a tensor as it is": lambda m, state: [
        tensor.data.copy_(state[name])
        for name, tensor in [*m.named_parameters(), *m.named_buffers()]
    ],
    "another tensor as .data": lambda m, state: [
        setattr(tensor, "data", state[name].clone())
        for name, tensor in [*m.named_parameters(), *m.named_buffers()]
    ],
    "another dtype": lambda m, state: m.double(),
    "another norm": lambda m, state: setattr(m, "norm", copy.deepcopy(m.norm).requires_grad_()),
    "another batch norm, frozen": lambda m, state: setattr(
        m, "norm", FrozenBatchNorm2d.convert_frozen_batchnorm(nn.BatchNorm2d(6))
    ),
}


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_fold_follows_every_change(pair, change, context):
    """Also of frozen weights in evaluation mode, where nothing announces a change."""
    for module in pair:
        with context():
            module.requires_grad_(False).eval()(X)
    state = {name: t * 0.5 + 0.1 for name, t in pair[0].state_dict().items()}
    for module in pair:
        change(module, state)
    with context():
        assert_same(*pair, X.to(pair[0].weight.dtype))


def test_memory_is_used_again_only_without_gradients(pair):
    _, ours = pair
    with torch.inference_mode():
        ours.eval()(X)
    kept = ours._memory
    with torch.no_grad():
        ours(X)
    assert kept is ours._memory
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert copied._memory is None
        torch.testing.assert_close(copied(X), ours(X))
    assert "_memory" not in ours.state_dict()
    # A fold that a backward pass still needs is not overwritten.
    x = X.clone().requires_grad_()
    output = ours.requires_grad_(False)(x)
    with torch.no_grad():
        ours.weight.mul_(3)
        ours(X)
        ours.weight.div_(3)
    (gradient,) = torch.autograd.grad(output.sum(), x)
    (expected,) = torch.autograd.grad(pair[0](x).sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)
    ours.train()
    assert ours._memory is None


def test_compiled_with_and_without_gradients(pair):
    theirs, ours = pair
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    for context in (torch.enable_grad, torch.no_grad):
        with context():
            torch.testing.assert_close(compiled(X), theirs(X), rtol=1e-5, atol=1e-5)
    ours.weight.data.mul_(2)
    theirs.weight.data.mul_(2)
    torch.testing.assert_close(compiled(X), theirs(X), rtol=1e-5, atol=1e-5)


def test_scripted_and_traced_graphs_are_those_of_detectron2(pair):
    theirs, ours = (module.eval().requires_grad_(False) for module in pair)
    with torch.no_grad():
        ours(X)  # keeps memory
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
    assert ours(X).dtype == torch.float32
    assert_same(theirs, ours)


@pytest.mark.parametrize("half", [False, True])
def test_fused_for_good_is_the_fold_of_every_call(half):
    theirs = nn.Sequential(conv_with(FrozenBatchNorm2d(6), bias=True), Conv2d(6, 2, 1))
    ours, fused = copy.deepcopy(theirs), copy.deepcopy(theirs)
    fold_frozen_bn(ours)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        assert fuse_frozen_bn(fused) == 1 and fuse_frozen_bn(fused) == 0
        assert torch.equal(fused(X), ours(X))
    assert sorted(fused.state_dict()) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert fused[0].weight.dtype == (torch.bfloat16 if half else torch.float32)
    if not half:
        assert_same(theirs, fused)


def test_a_backbone_is_channels_last_and_its_state_dict_is_not():
    backbone = resnet_c4(depth=50, stem_out_channels=8, res2_out_channels=16)
    assert all(type(m) is not Conv2d for m in backbone.modules())
    with torch.no_grad():
        features = backbone(torch.rand(1, 3, 64, 96))["res4"]
    assert features.is_contiguous(memory_format=torch.channels_last)
    assert all(t.is_contiguous() for t in backbone.state_dict().values())
    block = BottleneckBlock(8, 16, bottleneck_channels=4, norm="FrozenBN")
    assert fold_frozen_bn(block) == 4
