"""Our parts script and trace as detectron2's parts do, alone and in whole models."""

import pytest
import torch
from builders import load_cfg, tame_random_weights, tiny_cfg
from detectron2 import model_zoo
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.export import TracingAdapter, scripting_with_instances
from detectron2.export.torchscript_patch import freeze_training_mode, patch_instances
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from mrcnn_plugin import (
    MRCNNMaskFCNHead,
    MRCNNRPNHead,
    RoIAlignPooler,
    add_mrcnn_config,
    use_roi_align,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]
PYRAMID = [torch.randn(2, 4, side, side) for side in (32, 16, 8)]


def test_rpn_head():
    head = MRCNNRPNHead(in_channels=4, num_anchors=3, conv_dims=(5, -1)).eval()
    scripted, traced = torch.jit.script(head), torch.jit.trace(head, (PYRAMID,))
    maps = [torch.randn(1, 4, 9, 7) for _ in PYRAMID]
    for program in (scripted, traced):
        for ours, expected in zip(program(maps), head(maps)):
            assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("levels", [1, 3])
def test_pooler(levels, mode):
    pooler = RoIAlignPooler(
        output_size=3, spatial_scales=[1 / 4, 1 / 8, 1 / 16][:levels], mode=mode, bin_stride=2
    )
    maps = PYRAMID[:levels]
    one, two = torch.rand(2, 9, 4) * 50
    one[:, 2:] += one[:, :2] + torch.logspace(0, 2.7, 9)[:, None]  # of every level
    two[:, 2:] += two[:, :2]

    def pool(maps, *boxes):
        return pooler(maps, [Boxes(b) for b in boxes])

    traced = torch.jit.trace(pool, (maps, two, one))
    for boxes in ((one, two[:4]), (two[:0], one), (one[:0], one[:0])):
        expected = pool(maps, *boxes)
        assert torch.equal(torch.jit.script(pooler)(maps, [Boxes(b) for b in boxes]), expected)
        assert torch.equal(traced(maps, *boxes), expected)


@pytest.mark.parametrize("mask_loss, num_classes", [("sigmoid", 5), ("sigmoid", 1), ("softmax", 5)])
def test_mask_head_scripts(mask_loss, num_classes):
    """A trace is tested in test_mask_head.py."""
    head = MRCNNMaskFCNHead(
        ShapeSpec(channels=8, height=7, width=7),
        num_classes=num_classes,
        conv_dims=[6, 8],
        mask_loss=mask_loss,
    ).eval()
    images = [Instances((9, 9), pred_classes=torch.randint(num_classes, (n,))) for n in (3, 0, 2)]
    x = torch.randn(5, 8, 7, 7)
    fields = {"pred_masks": torch.Tensor, "pred_classes": torch.Tensor}
    with freeze_training_mode(head), patch_instances(fields) as patched:
        scripted = torch.jit.script(head)
        masks = [i.pred_masks for i in scripted(x, [patched.from_instances(i) for i in images])]
    for ours, image in zip(masks, head(x, images), strict=True):
        assert torch.equal(ours, image.pred_masks) and len(ours) == len(image)


# ---- Whole models --------------------------------------------------------------------------------


def fpn_cfg(name, *opts):
    cfg = model_zoo.get_config(name)
    add_mrcnn_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN"),
            *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
            *("MODEL.RESNETS.WIDTH_PER_GROUP", 4),
            *("MODEL.FPN.OUT_CHANNELS", 8, "MODEL.ROI_BOX_HEAD.FC_DIM", 16),
            *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8, "MODEL.RPN.POST_NMS_TOPK_TEST", 20),
            *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.ROI_HEADS.NUM_CLASSES", 3),
            *opts,
        ]
    )
    return cfg


PARTS_ON_FPN = (
    *("MODEL.ROI_HEADS.NAME", "MRCNNStandardROIHeads", "MODEL.RPN.HEAD_NAME", "MRCNNRPNHead"),
    *("MODEL.ROI_MASK_HEAD.NAME", "MRCNNMaskFCNHead"),
)
OURS_ON_FPN = (*PARTS_ON_FPN, "MODEL.PROPOSAL_GENERATOR.NAME", "MRCNNRPN")
FPN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
CASCADE = "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml"
WHOLE = {
    "C4": lambda: tiny_cfg("MODEL.RPN.POST_NMS_TOPK_TEST", 20),
    "C4, maximum, softmax": lambda: tiny_cfg(
        *("MODEL.MRCNN.ROI_ALIGN_MODE", "max", "MODEL.MRCNN.MASK_LOSS", "softmax"),
        *("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 2),
    ),
    "FPN": lambda: fpn_cfg(FPN, *OURS_ON_FPN),
    "Cascade": lambda: fpn_cfg(CASCADE, "MODEL.ROI_HEADS.NAME", "MRCNNCascadeROIHeads"),
}


def detect(model, image):
    return model.inference([{"image": image}], do_postprocess=False)[0]


def assert_near(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def predictors(model):
    """One, or those of all stages of a cascade."""
    own = model.roi_heads.box_predictor
    return list(own) if isinstance(own, torch.nn.ModuleList) else [own]


def assert_trace_detects_the_same(model, images):
    """Trace `model` on the image of the highest score; one image or more has no detection."""
    with torch.no_grad():
        best = [detect(model, image).scores.max().item() for image in images]
        (lowest, second), last = sorted(best)[:2], images[best.index(max(best))]
        for predictor in predictors(model):
            predictor.test_score_thresh = (lowest + second) / 2
        adapter = TracingAdapter(model, last, detect).eval()
        traced = torch.jit.trace(adapter, last, check_trace=False)
        counts = set()
        for image in images:
            expected = detect(model, image)
            ours = adapter.outputs_schema(traced(image))
            counts.add(len(expected))
            assert len(ours) == len(expected)
            for field, value in expected.get_fields().items():
                value = value.tensor if isinstance(value, Boxes) else value
                found = ours.get(field)
                found = found.tensor if isinstance(found, Boxes) else found
                assert_near(found, value)
    assert 0 in counts and len(counts) > 2, counts


def spread_scores(model):
    """Make the scores of a random model differ between images and boxes."""
    with torch.no_grad():
        model.pixel_std.mul_(50)
        for predictor in predictors(model):
            predictor.cls_score.weight.normal_(std=0.2)


@pytest.mark.parametrize("opts", [(), PARTS_ON_FPN], ids=["use_roi_align", "our parts"])
def test_a_whole_model_scripts(opts):
    """detectron2's FPN model with our RoIAlign, and with our heads under detectron2's RPN."""
    model = build_model(fpn_cfg(FPN, *opts)).eval()
    spread_scores(model)
    images = [torch.rand(3, *size) * 255 for size in ((96, 128), (70, 141), (64, 64))]
    boxes = dict.fromkeys(("proposal_boxes", "pred_boxes"), Boxes)
    names = ("objectness_logits", "scores", "pred_classes", "pred_masks")
    with torch.no_grad():
        before = [detect(model, image).get_fields() for image in images]
        assert opts or len(use_roi_align(model).replaced) == 10
        scripted = scripting_with_instances(model, {**boxes, **dict.fromkeys(names, torch.Tensor)})
        for image, expected in zip(images, before):
            found = detect(scripted, image)
            assert len(found.scores) > 0
            for name in ("scores", "pred_classes", "pred_masks"):
                assert_near(getattr(found, name), expected[name])
            assert_near(found.pred_boxes.tensor, expected["pred_boxes"].tensor)


@pytest.mark.parametrize("name", WHOLE)
def test_a_trace_of_a_whole_model_detects_the_same(name):
    """On images of other sizes, with other numbers of detections and with none."""
    model = build_model(WHOLE[name]()).eval()
    spread_scores(model)
    sizes = [(96, 128), (70, 141), (128, 90), (160, 200), (64, 64)]
    images = [torch.rand(3, *size) * 255 * (i + 1) / len(sizes) for i, size in enumerate(sizes)]
    assert_trace_detects_the_same(model, images)


@pytest.mark.slow
def test_a_trace_of_the_whole_c4_model_on_real_images(real_images):
    cfg = load_cfg("mask_rcnn_R101_C4.yaml", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 50
    model = build_model(cfg).eval()
    tame_random_weights(model)
    assert_trace_detects_the_same(model, resized_real_images(real_images, cfg.INPUT.FORMAT))


@pytest.mark.slow
def test_a_trace_after_use_roi_align_on_real_images(real_images):
    """detectron2's own R50-FPN with our RoIAlign."""
    cfg = model_zoo.get_config(FPN)
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
            *("MODEL.RPN.POST_NMS_TOPK_TEST", 50, "MODEL.PIXEL_STD", [60.0, 60.0, 60.0]),
        ]
    )
    model = build_model(cfg).eval()
    with torch.no_grad():
        for name, parameter in model.state_dict().items():
            if name.endswith("conv3.norm.weight"):
                parameter.fill_(0.2)  # without trained statistics, the variance would double
        model.roi_heads.box_predictor.cls_score.weight.normal_(std=0.2)
        model.roi_heads.mask_head.predictor.weight.normal_(std=0.2)
    done = use_roi_align(model)
    assert len(done.replaced) == 10
    images = resized_real_images(real_images, cfg.INPUT.FORMAT)
    assert_trace_detects_the_same(model, images)


def resized_real_images(folder, image_format):
    """Five images of several shapes, (3, H, W) with a shorter side of 224 pixels."""
    files = [
        *sorted(folder.glob("fruits_nuts/images/*.jpg"))[:2],
        *sorted(folder.glob("coco_tiny/val2017/*.jpg"))[:3],
    ]
    assert len(files) == 5
    resize = ResizeShortestEdge([224, 224], 320)
    images = [read_image(file, image_format) for file in files]
    images = [resize.get_transform(image).apply_image(image) for image in images]
    return [torch.from_numpy(image.astype("float32").transpose(2, 0, 1)) for image in images]
