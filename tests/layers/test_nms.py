"""Non-maximum suppression against torchvision and detectron2, and among PyTorch's compilers."""

import pytest
import torch
import torchvision
from detectron2.layers import batched_nms as detectron2_batched_nms
from torch.export import Dim

from mrcnn_plugin.layers.nms import batched_nms, nms


def random_boxes(count, seed=0, side=400.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand((count, 2), generator=generator) * side
    sizes = torch.rand((count, 2), generator=generator) * 120
    boxes = torch.cat([corners, corners + sizes], 1)
    return boxes, torch.randn(count, generator=generator).to(dtype).float()


def assert_equals_torchvision(boxes, scores, threshold):
    expected = torchvision.ops.nms(boxes, scores, threshold)
    for max_kept in (-1, 0, 1, 3, len(expected), len(expected) + 5):
        end = None if max_kept < 0 else max_kept
        assert torch.equal(nms(boxes, scores, threshold, max_kept), expected[:end])
    return expected


def test_three_boxes_by_hand():
    """IoU of the first two is 80 / 120, that of the third with both is 0."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]])
    scores = torch.tensor([0.5, 0.9, 0.7])
    assert nms(boxes, scores, 0.6).tolist() == [1, 2]
    assert nms(boxes, scores, 0.67).tolist() == [1, 2, 0]
    assert nms(boxes, scores, 0.67, max_kept=2).tolist() == [1, 2]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0, -0.5, float("nan")])
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 700])
def test_equals_torchvision(count, threshold):
    boxes, scores = random_boxes(count, seed=count)
    assert_equals_torchvision(boxes, scores, threshold)
    assert_equals_torchvision(boxes.t().contiguous().t(), scores.repeat(2)[:count], threshold)


def test_equals_torchvision_on_equal_scores_and_overlaps():
    """A few distinct scores, and boxes on a grid whose overlaps are exactly the threshold."""
    boxes, scores = random_boxes(900, dtype=torch.bfloat16)
    kept = assert_equals_torchvision(boxes, (scores * 2).round() / 2, 0.5)
    assert len(kept) > 64
    assert_equals_torchvision(boxes, torch.tensor([0.0, -0.0]).repeat(450), 0.5)
    on_grid = (boxes / 40).round() * 40
    for threshold in (1 / 3, 0.5, torch.tensor(1 / 3).item(), 0.25):
        assert_equals_torchvision(on_grid, scores, threshold)


def test_equals_torchvision_on_any_bits():
    """Reversed, empty, huge, infinite and NaN boxes; NaN and infinite scores."""
    special = torch.tensor([0.0, -0.0, 1, -7, 50, 1e30, -3e38, float("inf"), -float("inf"), 1e-40])
    for seed in range(20):
        boxes, scores = random_boxes(300, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        values = special[torch.randint(len(special), (300, 4), generator=generator)]
        mask = torch.rand((300, 4), generator=generator)
        boxes = torch.where(mask < 0.2, values, boxes)
        boxes[mask > 0.97] = float("nan")
        scores[::7], scores[::11] = float("nan"), float("inf")
        scores[3] = -float("nan")
        for threshold in (0.4, 0.0, -1.0):
            assert_equals_torchvision(boxes, scores, threshold)


def test_every_kept_box_suppresses():
    """Whatever its place in a vector or block of the kernel."""
    boxes = torch.zeros(130, 4)
    boxes[:, 0] = torch.arange(130) * 20.0
    boxes[:, 2] = boxes[:, 0] + 10
    boxes[:, 3] = 10
    scores = torch.linspace(1, 0, 130)
    for same in range(129):
        moved = boxes.clone()
        moved[129] = boxes[same] + 0.5
        assert nms(moved, scores, 0.5).tolist() == list(range(129))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype):
    boxes, scores = random_boxes(300)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    expected = torchvision.ops.nms(boxes.float(), scores.float(), 0.5)
    assert torch.equal(nms(boxes, scores, 0.5), expected)
    with torch.autocast("cpu", dtype):
        assert torch.equal(nms(boxes, scores, 0.5), expected)


@pytest.mark.parametrize("count", [0, 400, 1000, 1001, 6000])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batched_nms_is_the_list_of_detectron2(count, groups, dtype):
    """With equal scores too (bfloat16), on both sides of the switch of torchvision."""
    boxes, scores = random_boxes(count, seed=3, side=900.0, dtype=dtype)
    idxs = torch.arange(count) % groups
    expected = detectron2_batched_nms(boxes, scores, idxs, 0.7)
    for max_kept in (-1, 1, 100, 2000):
        end = None if max_kept < 0 else max_kept
        assert torch.equal(batched_nms(boxes, scores, idxs, 0.7, max_kept), expected[:end])


def test_errors_state_what_is_wrong():
    boxes, scores = random_boxes(5)
    with pytest.raises(ValueError, match=r"boxes must be \(N, 4\), got shape .*5, 3"):
        nms(boxes[:, :3], scores, 0.5)
    with pytest.raises(ValueError, match=r"scores must be \(N\) .*got shape .*4"):
        nms(boxes, scores[:4], 0.5)
    with pytest.raises(ValueError, match="max_kept must be -1"):
        nms(boxes, scores, 0.5, -2)
    with pytest.raises(TypeError, match=r"must be float32.*float64"):
        nms(boxes.double(), scores, 0.5)
    with pytest.raises(ValueError, match=r"idxs must be \(N\)"):
        batched_nms(boxes, scores, torch.zeros(4), 0.5)
    with pytest.raises(RuntimeError, match="must be float32"):
        torch.ops.mrcnn_plugin.nms(boxes.double(), scores, 0.5)
    with pytest.raises(RuntimeError, match=r"boxes must be \(N, 4\)"):
        torch.ops.mrcnn_plugin.nms(boxes, scores[:3], 0.5)


# ---- Compilers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("max_kept", [-1, 3])
def test_opcheck(max_kept):
    for count in (50, 1, 0):
        torch.library.opcheck(
            torch.ops.mrcnn_plugin.nms.default, (*random_boxes(count), 0.5, max_kept)
        )


def pool_kept(boxes, scores):
    return boxes[nms(boxes, scores, 0.5, 20)] * 2


def test_exports_with_any_number_of_boxes():
    class Model(torch.nn.Module):
        def forward(self, boxes, scores):
            return pool_kept(boxes, scores)

    count = Dim("N")
    exported = torch.export.export(
        Model(), random_boxes(50), dynamic_shapes=({0: count}, {0: count})
    ).module()
    for size in (50, 700, 2):
        assert torch.equal(exported(*random_boxes(size)), pool_kept(*random_boxes(size)))


def test_compiles_without_a_graph_break():
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(pool_kept, backend="aot_eager", fullgraph=True, dynamic=True)
        for size in (50, 700):
            assert torch.equal(compiled(*random_boxes(size)), pool_kept(*random_boxes(size)))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("count", [300, 3000])
def test_scripts_and_traces(count):
    boxes, scores = random_boxes(count)
    idxs = torch.arange(count) % 2
    scripted = torch.jit.script(batched_nms)
    assert torch.equal(
        scripted(boxes, scores, idxs, 0.5, 30), batched_nms(boxes, scores, idxs, 0.5, 30)
    )
    traced = torch.jit.trace(lambda b, s: nms(b, s, 0.5), random_boxes(20))
    assert torch.equal(traced(boxes, scores), nms(boxes, scores, 0.5))


@pytest.mark.gpu
@pytest.mark.parametrize("count", [0, 1, 64, 65, 700, 12000])
@pytest.mark.parametrize("threshold", [0.7, 0.5, 0.0, -1.0])
def test_a_gpu_keeps_the_boxes_of_the_cpu(count, threshold):
    """Random boxes, boxes of equal scores and overlaps, and boxes of any bits."""
    boxes, scores = random_boxes(count, seed=count, side=4000 if count > 1000 else 400)
    hostile, equal = boxes.clone(), (scores * 2).round() / 2
    hostile[::5, 2], hostile[::7, 1], hostile[3::11] = -7, float("nan"), float("inf")
    nan_scores = scores.clone()
    nan_scores[::3] = float("nan")
    for case, of_case in (
        (boxes, scores), (boxes, equal), ((boxes / 40).round() * 40, scores),
        (hostile, scores), (boxes, nan_scores),
    ):  # fmt: skip
        for max_kept in (-1, 0, 1, 64, 2000):
            expected = nms(case, of_case, threshold, max_kept)
            found = nms(case.cuda(), of_case.cuda(), threshold, max_kept)
            assert torch.equal(found.cpu(), expected)


@pytest.mark.gpu
def test_a_gpu_takes_strided_boxes_and_rejects_too_many():
    boxes, scores = random_boxes(300)
    strided = boxes.t().contiguous().t().cuda()
    found = nms(strided, torch.stack([scores, scores], 1)[:, 0].cuda(), 0.5)
    assert torch.equal(found.cpu(), nms(boxes, scores, 0.5))
    with pytest.raises(RuntimeError, match="at most 384000 boxes on CUDA, got 384001"):
        nms(torch.zeros(384_001, 4).cuda(), torch.zeros(384_001).cuda(), 0.5)
