"""`Predictor` finds what detectron2's `DefaultPredictor` finds, in images of every kind."""

import numpy as np
import pytest
import torch
from builders import tiny_model_file as write
from detectron2.engine import DefaultPredictor
from PIL import Image

from mrcnn_plugin import Predictor
from mrcnn_plugin.checkpoint.model_file import read_model_file
from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.inference.outputs import draw_overlay

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.pth"
    return write(path)


def same(found, expected):
    """The boxes, scores, classes and pixels of two `Instances` are equal."""
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    masks = expected.pred_masks
    assert torch.equal(found.pred_masks.tensor, masks if torch.is_tensor(masks) else masks.tensor)


@pytest.mark.parametrize("channels, norm", [("BGR", "BN"), ("RGB", "BN"), ("BGR", "FrozenBN")])
def test_detections_are_those_of_the_default_predictor(channels, norm, tmp_path):
    keys = ("INPUT.FORMAT", channels, "MODEL.RESNETS.NORM", norm)
    path = write(tmp_path / "model.pth", *keys)
    predictor = Predictor(path, device="cpu", threshold=0.1)
    cfg = predictor.cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(path)
    expected = DefaultPredictor(cfg)(IMAGE)["instances"]
    assert len(expected) > 3
    found = predictor(IMAGE)
    same(found, expected)
    assert found.image_size == (90, 130) and predictor.class_names == ["apple", "cup", "pen"]


def test_every_form_of_an_image_gives_the_same(model_file, tmp_path):
    predictor = Predictor(model_file, device="cpu", threshold=0.1)
    expected = predictor(IMAGE)
    rgb = np.ascontiguousarray(IMAGE[:, :, ::-1])
    Image.fromarray(rgb).save(tmp_path / "image.png")
    same(predictor(rgb, format="RGB"), expected)
    same(predictor(Image.fromarray(rgb)), expected)
    same(predictor(tmp_path / "image.png"), expected)
    same(predictor(str(tmp_path / "image.png")), expected)
    grey = IMAGE[:, :, 0]
    same(predictor(grey), predictor(np.stack([grey] * 3, axis=2)))


def test_exif_orientation_is_applied(model_file, tmp_path):
    predictor = Predictor(model_file, device="cpu", threshold=0.1)
    upright = Image.fromarray(np.ascontiguousarray(IMAGE[:, :, ::-1]))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show it upright
    turned.save(tmp_path / "turned.png", exif=exif)
    same(predictor(tmp_path / "turned.png"), predictor(IMAGE))
    with Image.open(tmp_path / "turned.png") as image:
        same(predictor(image), predictor(IMAGE))


def test_a_list_of_mixed_sizes_gives_what_each_image_gives(model_file):
    predictor = Predictor(model_file, device="cpu", threshold=0.1)
    images = [IMAGE, IMAGE[:60], IMAGE[::-1], IMAGE[:, :50], IMAGE[:60, ::-1]]
    batches = []
    predictor.model.register_forward_hook(lambda *_: None)
    inference = predictor.model.inference
    predictor.model.inference = lambda inputs, **k: (
        batches.append(len(inputs)) or inference(inputs, **k)
    )
    together = predictor(images)
    assert sorted(batches) == [1, 2, 2]
    for found, image in zip(together, images):
        alone = predictor(image)
        assert len(found) == len(alone)
        assert torch.allclose(found.pred_boxes.tensor, alone.pred_boxes.tensor, atol=1e-3)
    assert predictor([]) == []


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1)])
def test_lines_one_pixel_wide(size, model_file):
    """Resized as detectron2 does it, their shorter side has 0 pixels."""
    image = np.random.randint(0, 256, (*size, 3), np.uint8)
    instances = Predictor(model_file, device="cpu", threshold=0)(image)
    assert instances.image_size == size and len(instances) > 0
    assert max(draw_overlay(image, instances, ("apple", "cup", "pen")).shape) <= 2400


def test_thresholds_of_the_file_of_the_call_and_per_class(tmp_path):
    path = write(tmp_path / "model.pth", score_thresholds=[0.2, 0.9, 0.3])
    everything = Predictor(path, device="cpu", threshold=0.0)(IMAGE)
    predictor = Predictor(path, device="cpu")
    assert predictor.thresholds.tolist() == pytest.approx([0.2, 0.9, 0.3])
    found = predictor(IMAGE)
    expected = everything[everything.scores >= predictor.thresholds[everything.pred_classes]]
    assert len(found) < len(everything)
    assert set(found.scores.tolist()) <= set(expected.scores.tolist())
    assert Predictor(path, threshold=[0.1, 0.2, 0.3]).thresholds.tolist() == pytest.approx(
        [0.1, 0.2, 0.3]
    )
    with pytest.raises(ConfigError, match=r"threshold is 1\.5; expected values from 0 to 1"):
        Predictor(path, threshold=1.5)
    with pytest.raises(ConfigError, match="there are 2 thresholds; expected one, or 3"):
        Predictor(path, threshold=[0.1, 0.2])


def test_a_class_without_a_measured_threshold_has_one_half(tmp_path):
    """No detection of a cup was correct in the evaluation of this model."""
    file = write(tmp_path / "m.pth", score_thresholds=[0.25, None, 0.75])
    assert Predictor(file, device="cpu").thresholds.tolist() == [0.25, 0.5, 0.75]


def test_without_measured_thresholds_it_is_one_half(model_file):
    assert Predictor(model_file).thresholds.tolist() == [0.5] * 3


@pytest.mark.parametrize(
    "image, message",
    [
        (IMAGE.astype(np.float32), r"float32 of shape \(90, 130, 3\); expected uint8"),
        (np.zeros((4, 5, 4), np.uint8), r"shape \(4, 5, 4\)"),
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\)"),
        (Image.new("I;16", (5, 4), 40_000), "mode I;16; expected 8 bits per channel"),
        (None, "an image is <class 'NoneType'>; expected a path, an array or a PIL image"),
    ],
)
def test_wrong_arrays_are_named(image, message, model_file):
    with pytest.raises((ValueError, TypeError), match=message):
        Predictor(model_file, device="cpu")(image)


def test_a_file_of_16_bits_is_not_clipped_to_white(model_file, tmp_path):
    Image.new("I;16", (50, 40), 40_000).save(tmp_path / "deep.png")
    with pytest.raises(OSError, match=r"deep\.png' has 16 or 32 bits per pixel"):
        Predictor(model_file, device="cpu")(tmp_path / "deep.png")


def test_a_device_that_does_not_exist(model_file):
    for device in ("cpux", "cuda:99", "mps"):
        with pytest.raises(ConfigError, match=f"the device is '{device}'; expected one of cpu"):
            Predictor(model_file, device=device)


def test_a_predictor_can_be_pickled(model_file):
    """Programs that map it over many images send it to their processes."""
    import pickle

    predictor = Predictor(model_file, device="cpu", threshold=0.1)
    same(pickle.loads(pickle.dumps(predictor))(IMAGE), predictor(IMAGE))


def test_a_model_without_masks(tmp_path):
    path = write(tmp_path / "model.pth", "MODEL.MASK_ON", False)
    found = Predictor(path, device="cpu", threshold=0.1)(IMAGE)
    assert len(found) and not found.has("pred_masks")


def test_tiles_of_a_predictor(model_file):
    """Each tile is predicted as an image of its own, then shifted."""
    image = np.random.default_rng(1).integers(0, 256, (90, 200, 3), dtype=np.uint8)
    whole = Predictor(model_file, device="cpu", threshold=0.1)
    tiled = Predictor(model_file, device="cpu", threshold=0.1, tile=120, overlap=40, batch_size=2)
    left, right = whole([image[:, :120], image[:, 80:]])
    found = tiled(image)
    boxes = [*left.pred_boxes.tensor.tolist(), *(right.pred_boxes.tensor + 80).tolist()]
    assert 0 < len(found) <= len(boxes) and found.image_size == (90, 200)
    assert found.scores.max() == max(left.scores.max(), right.scores.max())
    assert found.pred_masks.image_size == (90, 200)
    same(tiled(image[:, :100]), whole(image[:, :100]))  # smaller than a tile
    assert tiled.overlap == 40 and Predictor(model_file, tile=100).overlap == 20


def test_tiles_that_do_not_fit_are_an_error(model_file, tmp_path):
    with pytest.raises(ConfigError, match="tiles of 100 pixels overlap by 100 pixels; expected"):
        Predictor(model_file, tile=100, overlap=100)
    path = write(tmp_path / "boxes.pth", "MODEL.MASK_ON", False)
    with pytest.raises(ConfigError, match=r"joined by masks, but MODEL\.MASK_ON"):
        Predictor(path, tile=100)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"class_names": ["a"]}, "has 1 class names; expected 3"),
        ({"config": ("MRCNNRPNHead", "None")}, "cannot be built: No object named 'None'"),
        ({"config": ("CONV_DIM: 16", "CONV_DIM: 24")}, "of another model: size"),
    ],
)
def test_a_model_file_that_contradicts_itself(change, message, model_file):
    content = read_model_file(model_file)
    (key, value), *_ = change.items()
    setattr(content, key, content.config.replace(*value) if key == "config" else value)
    with pytest.raises(ConfigError, match=message):
        Predictor(content, device="cpu")


def test_output_formats_of_a_predictor(model_file):
    predictor = Predictor(model_file, device="cpu", threshold=0.1)
    found = predictor(IMAGE)
    annotations = predictor.to_coco(found, 3)
    labels = predictor.to_labelme(found, "image.png")["shapes"]
    assert len(annotations) == len(predictor.to_polygons(found)) == len(found)
    assert {a["image_id"] for a in annotations} == {3}
    assert {shape["label"] for shape in labels} <= {"apple", "cup", "pen"}
