"""INPUT.AUG: pixels, masks, polygons and boxes of a view show the same objects."""

import logging

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from builders import forget, load_cfg
from coco_files import coco_content, save_image, write_dataset
from detectron2.data import DatasetMapper
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image

from mrcnn_plugin.engine.augmentation import AugmentingMapper, training_mapper
from mrcnn_plugin.engine.geometric_transform import View
from mrcnn_plugin.engine.options import check_training_options
from mrcnn_plugin.engine.train_loader import build_train_loader
from mrcnn_plugin.errors import ConfigError

SIZE = 60, 80  # height, width
L_SHAPE = [20.0, 10.0, 60.0, 10.0, 60.0, 22.0, 34.0, 22.0, 34.0, 50.0, 20.0, 50.0]
PLAIN = {
    "HORIZONTAL_FLIP": 0.0,
    "SCALE": (1.0, 1.0),
    "COLOR": (0.0, 0.0, 0.0, 0.0),
}


def aug_cfg(mask_format="polygon", side=60, **aug):
    opts = [o for k, v in (PLAIN | aug).items() for o in (f"INPUT.AUG.{k}", v)]
    return load_cfg(
        "mask_rcnn_shapes_C4.yaml",
        *("INPUT.AUG.ENABLED", True, "INPUT.MASK_FORMAT", mask_format),
        *("INPUT.MIN_SIZE_TRAIN", (side,), "INPUT.MAX_SIZE_TRAIN", 400),
        *opts,
    )


def mask_of(polygon, size=SIZE):
    return mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects([polygon], *size)))


def record(folder, segmentations, *, size=SIZE):
    """An image that is white exactly where the first object is, as a dataset dict."""
    mask = mask_of(segmentations[0], size)
    path = folder / "image.png"
    Image.fromarray(np.repeat(mask[:, :, None] * 255, 3, axis=2)).save(path)
    annotations = []
    for polygon in segmentations:
        x, y = np.reshape(polygon, (-1, 2)).T
        box = [x.min(), y.min(), np.ptp(x), np.ptp(y)]
        annotations.append(
            {
                "bbox": [float(n) for n in box],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": len(annotations),
                "segmentation": [polygon],
                "iscrowd": 0,
            }
        )
    sides = dict(zip(("height", "width"), size))
    return {"file_name": str(path), "image_id": 3, **sides, "annotations": annotations}


def as_rle(dataset_dict):
    for annotation in dataset_dict["annotations"]:
        mask = np.asfortranarray(mask_of(annotation["segmentation"][0]))
        annotation["segmentation"] = mask_utils.encode(mask)
    return dataset_dict


def iou(a, b):
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    return (a & b).sum() / (a | b).sum()


def pixels_of(instances):
    """Masks (N, H, W) of either kind."""
    if isinstance(instances.gt_masks, BitMasks):
        return instances.gt_masks.tensor.numpy()
    size = instances.image_size
    masks = [BitMasks.from_polygon_masks([p], *size).tensor for p in instances.gt_masks.polygons]
    return torch.cat(masks).numpy()


VIEWS = [
    {"HORIZONTAL_FLIP": 1.0},
    {"VERTICAL_FLIP": 1.0},
    {"ROTATION": 40.0},
    {"SCALE": (0.5, 2.0)},
    {"CROP": (0.6, 0.9)},
    {
        "HORIZONTAL_FLIP": 1.0,
        "VERTICAL_FLIP": 0.5,
        "ROTATION": 180.0,
        "SCALE": (0.7, 1.6),
        "CROP": (0.6, 1.0),
    },
]


@pytest.mark.parametrize("aug", VIEWS, ids=lambda aug: "+".join(aug))
@pytest.mark.parametrize("kind", ["polygon", "bitmask", "rle"])
def test_masks_and_boxes_follow_the_pixels(tmp_path, kind, aug):
    data = record(tmp_path, [L_SHAPE])
    data = as_rle(data) if kind == "rle" else data
    mapper = AugmentingMapper(aug_cfg("polygon" if kind == "polygon" else "bitmask", **aug))
    for seed in range(12):
        torch.manual_seed(seed)
        out = mapper(data)
        image, instances = out["image"], out["instances"]
        assert image.dtype == torch.uint8 and tuple(image.shape[1:]) == instances.image_size
        shown = image[0].numpy() > 128  # blue of the mean, outside a rotated image, is 103
        (mask,) = pixels_of(instances)
        assert iou(mask, shown) > 0.9, seed
        rows, columns = np.nonzero(mask)
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(instances.gt_boxes.tensor[0].numpy() - tight).max() <= 1.0, seed


def test_a_flip_is_exact(tmp_path):
    out = AugmentingMapper(aug_cfg(HORIZONTAL_FLIP=1.0))(record(tmp_path, [L_SHAPE]))
    (polygons,) = out["instances"].gt_masks.polygons
    x, y = np.reshape(L_SHAPE, (-1, 2)).T
    np.testing.assert_allclose(polygons[0], np.stack([80 - x, y], axis=1).reshape(-1))
    assert out["instances"].gt_boxes.tensor.tolist() == [[20, 10, 60, 50]]


def test_a_rotation_by_90_degrees_is_exact():
    """Counter-clockwise about the centre (40, 30): the point right of it goes above it."""
    view = View(SIZE, SIZE, False, False, 90.0, (0, 0, *SIZE))
    np.testing.assert_allclose(view.matrix @ [50, 30, 1], [40, 20, 1], atol=1e-9)


def test_without_random_changes_it_is_detectron2s_mapper(tmp_path):
    data = record(tmp_path, [L_SHAPE, [2.0, 2.0, 9.0, 2.0, 9.0, 8.0]])
    cfg = aug_cfg(side=90)
    expected = DatasetMapper(load_cfg_without_flip(cfg), is_train=True)(data)
    found = AugmentingMapper(cfg)(data)
    assert found.keys() == expected.keys() and found["image_id"] == 3
    assert found["image"].shape == expected["image"].shape
    difference = found["image"].int() - expected["image"].int()
    assert difference.abs().max() <= 2  # both resize bilinearly
    ours, theirs = found["instances"], expected["instances"]
    torch.testing.assert_close(ours.gt_boxes.tensor, theirs.gt_boxes.tensor)
    assert ours.gt_classes.tolist() == theirs.gt_classes.tolist() == [0, 1]
    for a, b in zip(ours.gt_masks.polygons, theirs.gt_masks.polygons):
        np.testing.assert_allclose(a, b)
    assert isinstance(ours.gt_masks, PolygonMasks)


def load_cfg_without_flip(cfg):
    cfg = cfg.clone()
    cfg.INPUT.AUG.ENABLED, cfg.INPUT.RANDOM_FLIP = False, "none"
    return cfg


def test_off_is_detectron2s_mapper():
    assert type(training_mapper(load_cfg("mask_rcnn_R101_C4.yaml"))) is DatasetMapper
    assert type(training_mapper(load_cfg("mask_rcnn_R101_C4_finetune.yaml"))) is DatasetMapper
    assert type(training_mapper(aug_cfg())) is AugmentingMapper


@pytest.mark.parametrize("kind", ["polygon", "rle"])
def test_objects_outside_of_the_crop_are_dropped(tmp_path, kind):
    corners = [(2, 2), (70, 2), (2, 50), (70, 50)]
    squares = [[x, y, x + 8.0, y, x + 8.0, y + 8.0, x, y + 8.0] for x, y in corners]
    data = record(tmp_path, squares)
    data = as_rle(data) if kind == "rle" else data
    mask_format = "bitmask" if kind == "rle" else "polygon"
    mapper = AugmentingMapper(aug_cfg(mask_format, CROP=(0.3, 0.6), side=200))
    counts = set()
    for seed in range(40):
        torch.manual_seed(seed)
        view = mapper.draw_view(*SIZE)
        torch.manual_seed(seed)
        instances = mapper(data)["instances"]
        factor = 200 / 60
        top, left, height, width = np.array(view.window) / factor
        visible, touching = (
            {
                index
                for index, (x, y) in enumerate(corners)
                if left + margin < x + 8 and x < left + width - margin
                if top + margin < y + 8 and y < top + height - margin
            }
            for margin in (1 / factor, -1 / factor)  # of a pixel
        )
        assert visible <= {*instances.gt_classes.tolist()} <= touching
        counts.add(len(visible))
        boxes = instances.gt_boxes.tensor
        assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
        assert (boxes[:, 2] <= view.window[3]).all() and (boxes[:, 3] <= view.window[2]).all()
    assert len(counts) > 1


def test_the_box_of_a_cut_object_is_that_of_its_visible_part(tmp_path, monkeypatch):
    """Of the L, only the stem is left below its bar; its box is narrower than the box of the L."""
    mapper = AugmentingMapper(aug_cfg())
    view = View(SIZE, SIZE, False, False, 0.0, (30, 0, 30, 80))
    monkeypatch.setattr(mapper, "draw_view", lambda height, width: view)
    instances = mapper(record(tmp_path, [L_SHAPE]))["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[20, 0, 34, 20]]


def test_crowd_regions_are_not_trained_on(tmp_path):
    data = record(tmp_path, [L_SHAPE, [2.0, 2.0, 9.0, 2.0, 9.0, 8.0]])
    data["annotations"][0]["iscrowd"] = 1
    assert AugmentingMapper(aug_cfg())(data)["instances"].gt_classes.tolist() == [1]


def test_boxes_without_masks(tmp_path):
    cfg = aug_cfg(HORIZONTAL_FLIP=1.0)
    cfg.MODEL.MASK_ON = False
    data = record(tmp_path, [L_SHAPE])
    del data["annotations"][0]["segmentation"]
    instances = AugmentingMapper(cfg)(data)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[20, 10, 60, 50]]
    assert not instances.has("gt_masks")


def test_the_sizes_follow_the_keys():
    cfg = aug_cfg(SCALE=(0.5, 2.0), side=60)
    cfg.INPUT.MAX_SIZE_TRAIN = 100
    mapper = AugmentingMapper(cfg)
    sizes = [mapper.draw_view(*SIZE).size for _ in range(300)]
    short, long = zip(*sizes)
    assert min(short) in (30, 31) and max(long) == 100
    assert all(abs(w / h - 80 / 60) < 0.05 for h, w in sizes)


def test_colours_change_by_config_and_only_they(tmp_path):
    save_image(tmp_path / "noise.png", 80, 60, seed=0)
    data = {**record(tmp_path, [L_SHAPE]), "file_name": str(tmp_path / "noise.png")}
    plain = AugmentingMapper(aug_cfg())(data)
    colored = AugmentingMapper(aug_cfg(COLOR=(0.4, 0.4, 0.4, 0.1)))(data)
    assert (plain["image"].int() - colored["image"].int()).abs().float().mean() > 1
    for a, b in zip(plain["instances"].gt_masks.polygons, colored["instances"].gt_masks.polygons):
        np.testing.assert_array_equal(a, b)


def test_hue_is_that_of_rgb_in_a_bgr_image(tmp_path):
    """Both formats have the same colours after the same random changes."""
    save_image(tmp_path / "noise.png", 80, 60, seed=0)
    data = {**record(tmp_path, [L_SHAPE]), "file_name": str(tmp_path / "noise.png")}
    images = {}
    for channels in ("BGR", "RGB"):
        cfg = aug_cfg(COLOR=(0.3, 0.3, 0.9, 0.3))
        cfg.INPUT.FORMAT = channels
        torch.manual_seed(1)
        images[channels] = AugmentingMapper(cfg)(data)["image"]
    torch.testing.assert_close(images["BGR"].flip(0), images["RGB"])


@pytest.fixture
def loader_cfg(tmp_path):
    content = coco_content(6, width=40, height=30)
    path = write_dataset(tmp_path / "data", content, size=(40, 30))
    register_coco_instances("augmented", {}, str(path), str(path.parent))
    cfg = aug_cfg(**VIEWS[-1] | {"COLOR": (0.3, 0.3, 0.3, 0.1)})
    cfg.DATASETS.TRAIN, cfg.SOLVER.IMS_PER_BATCH, cfg.SEED = ("augmented",), 2, 5
    yield cfg
    forget("augmented")


def batches(cfg, workers, start, count):
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_train_loader(cfg)
    loader.start_iter = start
    found = [batch for _, batch in zip(range(count), iter(loader))]
    return [
        (d["image_id"], d["image"].numpy().tobytes(), d["instances"].gt_boxes.tensor.tolist())
        for batch in found
        for d in batch
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_images_depend_on_seed_and_iteration_only(loader_cfg, workers):
    expected = batches(loader_cfg, 0, 0, 8)
    assert len({image for _, image, _ in expected}) == 16
    assert batches(loader_cfg, workers, 5, 3) == expected[10:]
    loader_cfg.SEED = 6
    assert batches(loader_cfg, workers, 5, 3) != expected[10:]


@pytest.mark.parametrize(
    "opts, message",
    [
        (("INPUT.AUG.HORIZONTAL_FLIP", 1.5), r"HORIZONTAL_FLIP is 1\.5; expected a probability"),
        (("INPUT.AUG.SCALE", (1.2, 0.8)), r"SCALE is \(1\.2, 0\.8\); expected two factors"),
        (("INPUT.AUG.SCALE", (0.0, 1.0)), "expected two factors"),
        (("INPUT.AUG.CROP", (0.5, 1.5)), "expected two fractions"),
        (("INPUT.AUG.CROP", (0.5,)), "expected two fractions"),
        (("INPUT.AUG.ROTATION", -1.0), "expected 0 to 180 degrees"),
        (("INPUT.AUG.COLOR", (0.1, 0.1, 0.1, 0.9)), "expected brightness, contrast"),
        (("INPUT.CROP.ENABLED", True), r"excludes INPUT.CROP.ENABLED True\. Set INPUT.AUG.CROP"),
        (("INPUT.RANDOM_FLIP", "none"), r"excludes INPUT.RANDOM_FLIP none"),
        (("MODEL.KEYPOINT_ON", True), "excludes MODEL.KEYPOINT_ON True"),
        (("INPUT.FORMAT", "L"), r"excludes INPUT\.FORMAT L"),
    ],
)
def test_mistakes_are_found_before_the_start(opts, message):
    cfg = aug_cfg()
    cfg.merge_from_list(list(opts))
    with pytest.raises(ConfigError, match=message):
        check_training_options(cfg)
    cfg.INPUT.AUG.ENABLED = False
    check_training_options(cfg)


def test_an_rle_needs_bitmasks(tmp_path):
    with pytest.raises(ConfigError, match=r"has an RLE mask\. Set it to bitmask"):
        AugmentingMapper(aug_cfg("polygon"))(as_rle(record(tmp_path, [L_SHAPE])))


def test_it_is_logged(caplog):
    with caplog.at_level(logging.INFO):
        AugmentingMapper(aug_cfg(ROTATION=15.0))
    assert "'ROTATION': 15.0" in caplog.text
