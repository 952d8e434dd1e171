"""Annotations of other tools: drawn by hand, converted, and compared pixel by pixel."""

import base64
import io
import json
import math

import numpy as np
import pytest
from coco_files import save_image
from PIL import Image
from pycocotools import mask as mask_utils

from mrcnn_plugin.data.check import check_content
from mrcnn_plugin.data.coco_file import DataError
from mrcnn_plugin.data.convert import from_instance_masks, from_labelme, from_via, from_voc
from mrcnn_plugin.data.findings import Findings, Severity
from mrcnn_plugin.data.masks import to_rle

HEIGHT, WIDTH = 30, 40


def block(x1, y1, x2, y2):
    """(HEIGHT, WIDTH) bool: pixels from (x1, y1) up to, not including, (x2, y2)."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def objects_of(content):
    """[(file name, class name, (HEIGHT, WIDTH) bool mask)] in the order of the json."""
    names = {c["id"]: c["name"] for c in content["categories"]}
    images = {i["id"]: i for i in content["images"]}
    found = []
    for a in content["annotations"]:
        image = images[a["image_id"]]
        rle = to_rle(a["segmentation"], image["height"], image["width"])
        mask = mask_utils.decode(rle).astype(bool)
        found.append((image["file_name"], names[a["category_id"]], mask))
    return found


def assert_objects(content, expected):
    found = objects_of(content)
    assert [(f, n) for f, n, _ in found] == [(f, n) for f, n, _ in expected]
    for (_, name, mask), (_, _, wanted) in zip(found, expected):
        assert np.array_equal(mask, wanted), name


def assert_passes_the_check(content, folder):
    """Through a file and back, as it will be read."""
    findings = Findings("converted.json")
    content = json.loads(json.dumps(content))
    after = check_content(json.loads(json.dumps(content)), findings, str(folder), full=True)
    assert {p.kind for p in findings.problems} <= {"unused-category"}
    assert after == content
    for a, (*_, mask) in zip(content["annotations"], objects_of(content)):
        ys, xs = mask.nonzero()
        tight = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
        assert np.abs(np.subtract(a["bbox"], tight)).max() < 1.01  # outlines between pixels
        assert a["area"] == mask.sum()
    numbers = [a["id"] for a in content["annotations"]]
    assert numbers == list(range(1, len(numbers) + 1))


def shape(label, points, kind="polygon", group=None, **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": group, **more}


def write_labelme(folder, name, shapes, image_path=None):
    content = {"version": "5.0.0", "flags": {}, "shapes": shapes, "imageData": None}
    content["imagePath"] = image_path or f"{name}.png"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content))
    save_image(folder / f"{name}.png", WIDTH, HEIGHT)


def corners(x1, y1, x2, y2):
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]


def test_labelme(tmp_path):
    """Parts with one group id are one object; the group ids of two labels are two groups."""
    patch = Image.new("1", (3, 2), 1)
    buffer = io.BytesIO()
    patch.save(buffer, "PNG")
    png = base64.b64encode(buffer.getvalue()).decode()
    shapes = [
        shape("cat", corners(2, 2, 8, 6)),
        shape("cat", corners(10, 10, 14, 12), group=1),
        shape("dog", [[30, 20], [20, 15]], "rectangle", group=1),  # corners from below right
        shape("cat", corners(20, 10, 24, 12), group=1),
        shape("__ignore__", corners(0, 0, 40, 2)),
        shape("_background_", corners(0, 0, 40, 30)),
        shape("dog", [[1, 1]], "point"),
        shape("dog", [[1, 1], [5, 5]], "line"),
        shape("dog", [[5, 20], [7, 21]], "mask", mask=png),
    ]
    write_labelme(tmp_path, "a", shapes)
    write_labelme(tmp_path / "sub", "b", [], r"..\sub\b.png")  # a image of nothing, from Windows
    (tmp_path / "other.json").write_text("{}")
    content = from_labelme(tmp_path, tmp_path)
    assert [i["file_name"] for i in content["images"]] == ["a.png", "sub/b.png"]
    assert_objects(
        content,
        [
            ("a.png", "cat", block(2, 2, 8, 6)),
            ("a.png", "cat", block(10, 10, 14, 12) | block(20, 10, 24, 12)),
            ("a.png", "dog", block(20, 15, 30, 20)),
            ("a.png", "dog", block(5, 20, 8, 22)),
        ],
    )
    assert_passes_the_check(content, tmp_path)


def test_labelme_circle(tmp_path):
    write_labelme(tmp_path, "a", [shape("disc", [[20, 15], [20, 5]], "circle")])
    content = from_labelme(tmp_path, tmp_path)
    (annotation,) = content["annotations"]
    assert annotation["area"] == pytest.approx(math.pi * 10**2, rel=0.02)
    assert annotation["bbox"] == pytest.approx([10, 5, 20, 20], abs=0.01)


def test_labelme_classes_are_those_of_its_labels_txt(tmp_path):
    write_labelme(tmp_path, "a", [shape("cat", corners(2, 2, 8, 6))])
    labels = ["__ignore__", "_background_", "dog", "cat"]
    content = from_labelme(tmp_path, tmp_path, labels)
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(1, "dog"), (2, "cat")]
    assert content["annotations"][0]["category_id"] == 2
    with pytest.raises(
        DataError, match=r"objects of the classes cat, which are not in the list of classes: dog$"
    ):
        from_labelme(tmp_path, tmp_path, ["dog"])


def test_labelme_real_images_give_what_labelme_itself_gives(real_images):
    """labelme's own converter wrote the expected COCO json; masks agree up to their outline."""
    root = real_images / "labelme_voc3"
    labels = (root / "labels.txt").read_text().split("\n")[:-1]
    ours = from_labelme(root / "data_annotated", root / "data_annotated", labels)
    theirs = json.loads((root / "data_dataset_coco/annotations.json").read_text())
    assert len(ours["annotations"]) == len(theirs["annotations"]) == 12
    named = {i["id"]: i["file_name"].split("/")[-1] for i in theirs["images"]}
    for image in theirs["images"]:
        image["file_name"] = named[image["id"]]
    remaining = objects_of(theirs)
    for file, name, mask in objects_of(ours):
        iou = [
            (mask & m).sum() / (mask | m).sum() if (f, n) == (file, name) else 0
            for f, n, m in remaining
        ]
        assert max(iou) > 0.93, (file, name)
        del remaining[int(np.argmax(iou))]
    assert_passes_the_check(ours, root / "data_annotated")


def test_labelme_errors_name_the_file(tmp_path):
    with pytest.raises(DataError, match=r"there is no labelme json .* in .*test_labelme_errors"):
        from_labelme(tmp_path, tmp_path)
    write_labelme(tmp_path, "a", [shape("cat", corners(2, 2, 8, 6))], "gone.png")
    with pytest.raises(DataError, match=r"gone\.png: the file does not exist"):
        from_labelme(tmp_path, tmp_path)
    write_labelme(tmp_path, "a", [shape("cat", corners(2, 2, 8, 6), "blob")])
    with pytest.raises(DataError, match=r"a\.json: a shape has the type 'blob'"):
        from_labelme(tmp_path, tmp_path)


def test_labelme_polygons_of_two_points_are_left_to_the_check(tmp_path):
    shapes = [shape("cat", corners(2, 2, 8, 6)), shape("cat", [[2, 2], [8, 6]]), shape("cat", [])]
    write_labelme(tmp_path, "a", shapes)
    findings = Findings("x.json")
    check_content(from_labelme(tmp_path, tmp_path), findings, str(tmp_path))
    (problem,) = findings.problems
    assert (problem.severity, problem.kind) == (Severity.ERROR, "degenerate-polygon")
    assert problem.annotation_id == 2


def via_region(attributes, name, **values):
    return {"shape_attributes": {"name": name, **values}, "region_attributes": attributes}


def via_files(tmp_path, attribute="kind"):
    regions = [
        via_region({attribute: "cell"}, "rect", x=2, y=3, width=6, height=4),
        via_region(
            {attribute: "nucleus"},
            "polygon",
            all_points_x=[10, 14, 14, 10],
            all_points_y=[10, 10, 20, 20],
        ),
        via_region({attribute: "cell"}, "circle", cx=25, cy=15, r=8),
        via_region({attribute: "cell"}, "ellipse", cx=25, cy=15, rx=10, ry=5, theta=math.pi / 2),
        via_region({attribute: "cell"}, "point", cx=1, cy=1),
    ]
    for name in ("a.png", "b.png"):
        save_image(tmp_path / name, WIDTH, HEIGHT)
    return {
        "b.png99": {"filename": "b.png", "size": 99, "regions": []},
        "a.png99": {"filename": "a.png", "size": 99, "regions": regions},
    }


@pytest.mark.parametrize("form", ["project", "export", "version 1"])
def test_via(tmp_path, form):
    files = via_files(tmp_path)
    if form == "version 1":  # regions by number
        for file in files.values():
            file["regions"] = {str(i): region for i, region in enumerate(file["regions"])}
    content = {"_via_settings": {}, "_via_img_metadata": files} if form == "project" else files
    (tmp_path / "via.json").write_text(json.dumps(content))
    content = from_via(tmp_path / "via.json", tmp_path)
    assert [i["file_name"] for i in content["images"]] == ["a.png", "b.png"]
    assert_objects(
        {**content, "annotations": content["annotations"][:2]},
        [("a.png", "cell", block(2, 3, 8, 7)), ("a.png", "nucleus", block(10, 10, 14, 20))],
    )
    circle, upright = content["annotations"][2:]
    assert circle["area"] == pytest.approx(math.pi * 64, rel=0.03)
    assert upright["bbox"] == pytest.approx([20, 5, 10, 20], abs=0.1)  # turned by a quarter
    assert upright["area"] == pytest.approx(math.pi * 50, rel=0.03)
    assert_passes_the_check(content, tmp_path)


def test_via_ellipses_turn_from_right_to_down(tmp_path):
    """By an eighth, as a canvas does: the long axis runs from above left to below right."""
    save_image(tmp_path / "a.png", WIDTH, HEIGHT)
    ellipse = {"cx": 20, "cy": 15, "rx": 10, "ry": 3, "theta": math.pi / 4}
    files = {
        "a": {"filename": "a.png", "regions": [via_region({"kind": "x"}, "ellipse", **ellipse)]}
    }
    (tmp_path / "via.json").write_text(json.dumps(files))
    ((_, _, mask),) = objects_of(from_via(tmp_path / "via.json", tmp_path))
    assert mask[20, 25] and mask[9, 14] and not mask[20, 14] and not mask[9, 25]


def test_via_attributes(tmp_path):
    """Checkboxes; none at all; two, of which one has to be chosen; a region without its class."""
    save_image(tmp_path / "a.png", WIDTH, HEIGHT)
    path = tmp_path / "via.json"

    def convert(*attributes, **options):
        square = {"x": 2, "y": 3, "width": 6, "height": 4}
        regions = [via_region(a, "rect", **square) for a in attributes]
        path.write_text(json.dumps({"a": {"filename": "a.png", "regions": regions}}))
        return [name for _, name, _ in objects_of(from_via(path, tmp_path, **options))]

    assert convert({"kind": {"cell": True, "dead": False}}) == ["cell"]
    assert convert({}, {}) == ["object", "object"]
    two = {"kind": "cell", "quality": "good"}
    with pytest.raises(
        DataError, match=r"attributes kind, quality\. Select the one .* --attribute"
    ):
        convert(two)
    assert convert(two, attribute="kind") == ["cell"]
    with pytest.raises(DataError, match=r"region 1 of a\.png has no 'kind'"):
        convert({"kind": "cell"}, {"kind": ""})
    with pytest.raises(DataError, match=r"'kin'\. The regions have kind, quality\. Correct"):
        convert(two, attribute="kin")


def test_via_without_attributes_has_the_only_class_that_is_passed(tmp_path):
    save_image(tmp_path / "a.png", WIDTH, HEIGHT)
    region = via_region({}, "rect", x=2, y=3, width=6, height=4)
    path = tmp_path / "via.json"
    path.write_text(json.dumps({"a": {"filename": "a.png", "regions": [region]}}))
    ((_, name, _),) = objects_of(from_via(path, tmp_path, ["cell"]))
    assert name == "cell"
    with pytest.raises(DataError, match=r"classes object, which are not in the list .*: cell, d"):
        from_via(path, tmp_path, ["cell", "dead"])
    with pytest.raises(DataError, match=r"attribute 'kind'\. The regions have none\. Correct"):
        from_via(path, tmp_path, ["cell"], attribute="kind")


def test_a_byte_order_mark_is_no_part_of_the_json(tmp_path):
    """Editors of Windows write one."""
    path = tmp_path / "via.json"
    path.write_text("\ufeff" + json.dumps(via_files(tmp_path)), "utf-8")
    assert len(from_via(path, tmp_path)["images"]) == 2
    write_labelme(tmp_path, "a", [shape("cat", corners(2, 2, 8, 6))])
    path.unlink()
    path = tmp_path / "a.json"
    path.write_text("\ufeff" + path.read_text(), "utf-8")
    assert len(from_labelme(tmp_path, tmp_path)["annotations"]) == 1


def test_a_json_that_is_not_vias(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(DataError, match=r"x\.json is not a json of VIA 2"):
        from_via(tmp_path / "x.json", tmp_path)


def save_ids(path, ids, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    if mode == "P":
        image = image.convert("L")
        image.putpalette([i % 256 for i in range(768)])
    image.save(path)


@pytest.mark.parametrize("kind", ["gray", "16 bit", "palette"])
def test_instance_masks(tmp_path, kind):
    ids = np.zeros((HEIGHT, WIDTH), np.uint16 if kind == "16 bit" else np.uint8)
    big = 1000 if kind == "16 bit" else 200
    ids[block(2, 2, 8, 6)] = 7
    ids[block(10, 10, 14, 12) | block(20, 10, 24, 12)] = big
    ids[block(22, 11, 24, 12)] = 1
    save_ids(tmp_path / "masks/a.png", ids, "P" if kind == "palette" else None)
    for name in ("a.jpg", "empty.jpg"):
        save_image(tmp_path / "images" / name, WIDTH, HEIGHT)
    content = from_instance_masks(tmp_path / "masks", tmp_path / "images")
    assert [i["file_name"] for i in content["images"]] == ["a.jpg", "empty.jpg"]
    rest = (block(10, 10, 14, 12) | block(20, 10, 24, 12)) & ~block(22, 11, 24, 12)
    assert_objects(
        content,
        [
            ("a.jpg", "object", block(22, 11, 24, 12)),
            ("a.jpg", "object", block(2, 2, 8, 6)),
            ("a.jpg", "object", rest),
        ],
    )
    assert_passes_the_check(content, tmp_path / "images")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_masks_as_jpeg_are_an_error(tmp_path, suffix):
    """Also under another name: of two ids, the compression makes many."""
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[block(2, 2, 9, 7)], ids[block(12, 12, 20, 22)] = 1, 200
    (tmp_path / "masks").mkdir()
    Image.fromarray(ids).save(tmp_path / f"masks/a.{suffix}", format="JPEG")
    save_image(tmp_path / "images/a.jpg", WIDTH, HEIGHT)
    with pytest.raises(DataError, match=rf"a\.{suffix} is a JPEG, .* Expected a PNG"):
        from_instance_masks(tmp_path / "masks", tmp_path / "images")


def test_instance_masks_of_several_classes(tmp_path):
    """Objects of different classes may lie on one another: a nucleus in its cell."""
    for name, box in (("nucleus", (12, 12, 15, 15)), ("cell", (10, 10, 20, 20))):
        save_ids(tmp_path / f"masks/{name}/a.png", block(*box).astype(np.uint8))
    save_image(tmp_path / "images/a.png", WIDTH, HEIGHT)
    content = from_instance_masks(tmp_path / "masks", tmp_path / "images")
    cell, nucleus = block(10, 10, 20, 20), block(12, 12, 15, 15)
    assert_objects(content, [("a.png", "cell", cell), ("a.png", "nucleus", nucleus)])
    assert_passes_the_check(content, tmp_path / "images")


def test_masks_that_fit_no_image(tmp_path):
    ids = block(2, 2, 8, 6).astype(np.uint8)
    save_ids(tmp_path / "masks/a.png", ids)
    save_image(tmp_path / "images/b.png", WIDTH, HEIGHT)
    convert = lambda: from_instance_masks(tmp_path / "masks", tmp_path / "images")  # noqa: E731
    with pytest.raises(DataError, match=r"masks/a\.png: no file of this name in .*images"):
        convert()
    save_image(tmp_path / "images/a.png", HEIGHT, WIDTH)
    with pytest.raises(DataError, match=r"a\.png has \(height, width\) \(30, 40\), .* \(40, 30\)"):
        convert()
    save_image(tmp_path / "masks/a.png", HEIGHT, WIDTH)
    with pytest.raises(DataError, match=r"a\.png is a colour image \(RGB\)\. Expected one id"):
        convert()


def test_voc(tmp_path):
    """Two instances of one class touch; 255 between and in either PNG belongs to neither."""
    objects = np.zeros((HEIGHT, WIDTH), np.uint8)
    classes = objects.copy()
    for number, class_id, box in (
        (1, 15, (2, 2, 8, 6)),
        (2, 15, (8, 2, 12, 6)),
        (3, 1, (20, 20, 30, 25)),
    ):
        objects[block(*box)] = number
        classes[block(*box)] = class_id
    objects[2:6, 8] = classes[2:6, 8] = 255
    classes[20, 20:30] = 255
    save_ids(tmp_path / "SegmentationObject/a.png", objects, "P")
    save_ids(tmp_path / "SegmentationClass/a.png", classes, "P")
    for name in ("a", "not annotated"):
        save_image(tmp_path / f"JPEGImages/{name}.jpg", WIDTH, HEIGHT)
    content = from_voc(tmp_path, tmp_path / "JPEGImages")
    assert len(content["categories"]) == 20 and len(content["images"]) == 1
    assert_objects(
        content,
        [
            ("a.jpg", "person", block(2, 2, 8, 6)),
            ("a.jpg", "person", block(9, 2, 12, 6)),
            ("a.jpg", "aeroplane", block(20, 21, 30, 25)),
        ],
    )
    assert_passes_the_check(content, tmp_path / "JPEGImages")


def test_voc_errors(tmp_path):
    save_ids(tmp_path / "SegmentationObject/a.png", block(2, 2, 8, 6).astype(np.uint8))
    save_ids(tmp_path / "SegmentationClass/a.png", 2 * block(2, 2, 8, 6).astype(np.uint8))
    save_image(tmp_path / "a.png", WIDTH, HEIGHT)
    names = ["__ignore__", "_background_", "cat"]
    with pytest.raises(DataError, match=r"instance 1 has the class ids \[2\]; expected one from 1"):
        from_voc(tmp_path, tmp_path, names)
    assert objects_of(from_voc(tmp_path, tmp_path, [*names, "dog"]))[0][1] == "dog"
    (tmp_path / "SegmentationClass/a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: no file of this name in .*SegmentationClass"):
        from_voc(tmp_path, tmp_path)
