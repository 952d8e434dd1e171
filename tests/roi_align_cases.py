"""Feature maps, RoIs and calls of RoIAlign that several tests share. No expected values."""

import torch

from mrcnn_plugin.layers.multiscale_roi_align import assign_levels

MODES = ("avg", "max")  # an op's `mode` is the index
HEIGHT, WIDTH, SCALE = 9, 13, 0.5  # the map of most tests; boxes are in pixels twice as small


def make_features(channels=2, batch=2, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, channels, HEIGHT, WIDTH)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def make_rois(dtype=torch.float64):
    """Boxes across every border and corner, off the map, tiny, huge, on integers, empty."""
    h, w = HEIGHT / SCALE, WIDTH / SCALE
    boxes = [
        (3.1, 2.7, 17.9, 12.2),
        (-5.3, 4.0, 6.1, 11.0),  # left
        (w - 4.7, 3.3, w + 6.2, 9.1),  # right
        (5.2, -7.1, 12.9, 5.5),  # top
        (8.8, h - 3.3, 15.1, h + 8.4),  # bottom
        (-6.0, -6.5, 4.4, 5.1),  # the four corners
        (w - 3.1, -4.4, w + 5.0, 3.9),
        (-4.9, h - 4.2, 5.7, h + 3.6),
        (w - 5.5, h - 5.1, w + 4.1, h + 6.3),
        (-40.0, -30.0, -20.0, -15.0),  # off the map
        (7.03, 7.04, 7.05, 7.06),  # tiny
        (-90.0, -70.0, 130.0, 110.0),  # huge
        (2.0, 2.0, 16.0, 14.0),  # edges and centres on integers
        (0.0, 0.0, w, h),
        (5.0, 5.0, 5.0, 5.0),  # no area
        (4.0, 6.0, 12.0, 6.0),
    ]
    image = torch.arange(len(boxes), dtype=dtype) % 2
    return torch.cat([image[:, None], torch.tensor(boxes, dtype=dtype)], dim=1)


def reverse(rois):
    return rois[:, [0, 3, 4, 1, 2]]


def random_rois(count, seed, height, width):
    generator = torch.Generator().manual_seed(seed)
    uniform = lambda *shape: torch.rand(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    centres = uniform(count, 2) * 1.4 * torch.tensor([width, height]) - 0.2 * width
    sizes = torch.exp(uniform(count, 2) * 6 - 2)
    image = (uniform(count, 1) * 2).floor()
    return torch.cat([image, centres - sizes / 2, centres + sizes / 2], dim=1)


def gradient(op, features, *args, grad=None, **kwargs):
    features = features.detach().requires_grad_()
    output = op(features, *args, **kwargs)
    if grad is None:
        generator = torch.Generator().manual_seed(7)
        grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    return torch.autograd.grad(output, features, grad)[0]


def all_rois(dtype, sampling_ratio=2):
    rois = torch.cat([make_rois(), random_rois(60, 1, HEIGHT / SCALE, WIDTH / SCALE)])
    return (torch.cat([rois, reverse(rois)]) if sampling_ratio else rois).to(dtype)


SCALES = (SCALE, SCALE / 2)
CANONICAL = {"canonical_box_size": 8, "canonical_level": 1}


def every_input(device):
    """What every_op takes, copied from the host: no kernel has written it."""
    maps = [make_features(21, dtype=torch.float32, seed=seed) for seed in (0, 1)]
    maps[1] = maps[1][:, :, :5, :7].contiguous()
    rois = make_rois(torch.float32)
    levels = assign_levels(rois, 1, 2, **CANONICAL)
    assert set(levels.tolist()) == {0, 1}
    grad = make_features(21, batch=len(rois), dtype=torch.float32, seed=2)[:, :, :3, :3]
    rest = rois, levels, grad.contiguous()
    return [f.to(device) for f in maps], *(tensor.to(device) for tensor in rest)


def every_op(mode, features, rois, levels, grad):
    """Outputs and gradients of a map and of a pyramid, computed by our ops only."""
    op, options = torch.ops.mrcnn_plugin, (0, True, MODES.index(mode), 1)
    output, argmax = op.roi_align(features[0], rois, 3, 3, SCALE, *options)
    grad_map = op.roi_align_backward(grad, rois, argmax, *features[0].shape, 3, 3, SCALE, *options)
    pooled, argmax = op.roi_align_levels(features, rois, levels, 3, 3, SCALES, *options)
    grads = [
        op.roi_align_levels_backward(
            grad, rois, levels, level, argmax, *maps.shape, 3, 3, scale, *options
        )
        for level, (maps, scale) in enumerate(zip(features, SCALES))
    ]
    return [output, grad_map, pooled, *grads]


PYRAMID_SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def make_pyramid(channels=5, dtype=torch.float32, levels=4):
    generator = torch.Generator().manual_seed(0)
    sizes = [(96 // 2**i, 160 // 2**i) for i in range(levels)]
    return [torch.randn(2, channels, *s, generator=generator).to(dtype) for s in sizes]


def make_pyramid_rois(count=60, smallest=4.0, largest=900.0):
    """Boxes of all levels, in no order of size, some of them across the borders."""
    generator = torch.Generator().manual_seed(1)
    u = torch.rand(5, count, generator=generator)
    size = smallest * (largest / smallest) ** u[0]
    aspect = 2 ** (2 * u[1] - 1)
    x, y, w, h = u[2] * 640, u[3] * 384, size * aspect.sqrt(), size / aspect.sqrt()
    image = (u[4] * 2).floor()
    return torch.stack([image, x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
