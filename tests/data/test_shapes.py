"""The drawn shapes: reproducible, annotated as they are drawn, readable by detectron2."""

import json

import cv2
import numpy as np
from pycocotools.coco import COCO

from mrcnn_plugin.data import SHAPE_CLASSES, make_shapes


def draw(folder, num_images=12, seed=7):
    make_shapes(folder / "shapes.json", num_images, seed=seed)
    return COCO(str(folder / "shapes.json"))


def test_same_seed_same_images(tmp_path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        draw(tmp_path / name, seed=seed)
    read = {n: (tmp_path / n / "00003.png").read_bytes() for n in "abc"}
    assert read["a"] == read["b"] != read["c"]
    assert (tmp_path / "a/shapes.json").read_text() == (tmp_path / "b/shapes.json").read_text()


def test_annotations_are_what_is_drawn(tmp_path):
    coco = draw(tmp_path)
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(SHAPE_CLASSES)
    assert min(coco.getAnnIds()) == 1  # COCOeval takes id 0 for "unmatched"
    for image_id in coco.getImgIds():
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        masks = np.stack([coco.annToMask(a) for a in annotations])
        assert 1 <= len(annotations) <= 6
        assert masks.sum(0).max() == 1  # a pixel belongs to one shape: the one on top
        for annotation, mask in zip(annotations, masks):
            ys, xs = mask.nonzero()
            x, y, w, h = annotation["bbox"]
            assert (x, y, x + w, y + h) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert annotation["area"] == mask.sum() > 0


def test_shapes_hide_one_another(tmp_path):
    """Somewhere a circle's visible part is clearly smaller than its outline's disc."""
    coco = draw(tmp_path, num_images=30)
    circles = [a for a in coco.loadAnns(coco.getAnnIds()) if a["category_id"] == 1]
    fill = [a["area"] / (np.pi / 4 * a["bbox"][2] * a["bbox"][3]) for a in circles]
    assert min(fill) < 0.9 and max(fill) > 0.95


def test_a_shape_differs_from_the_background(tmp_path):
    coco = draw(tmp_path)
    annotations = coco.loadAnns(coco.getAnnIds(1))
    image = cv2.imread(str(tmp_path / "00001.png")).astype(float)
    mask = coco.annToMask(annotations[-1]).astype(bool)
    inside, outside = image[mask].mean(0), image[~mask].mean(0)
    assert np.abs(inside - outside).max() > 30


def test_sizes(tmp_path):
    make_shapes(tmp_path / "s.json", 2, seed=1, size=96)
    assert cv2.imread(str(tmp_path / "00002.png")).shape == (96, 96, 3)
    content = json.loads((tmp_path / "s.json").read_text())
    assert {(i["height"], i["width"]) for i in content["images"]} == {(96, 96)}
