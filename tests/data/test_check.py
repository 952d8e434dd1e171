"""Every fault that the check knows, one at a time: its place in the report and its result."""

import json

import numpy as np
import pytest
from coco_files import SQUARE, annotation, coco_content, save_image, write_dataset
from detectron2.data import detection_utils as utils
from PIL import Image
from pycocotools import mask as mask_utils

from mrcnn_plugin.data.check import (
    check_content,
    check_num_classes,
    check_unseen_classes,
)
from mrcnn_plugin.data.coco_file import DataError, read_coco_json
from mrcnn_plugin.data.findings import Findings, Problem, Severity, format_problems
from mrcnn_plugin.data.image_file import displayed_size, read_header
from mrcnn_plugin.data.overlap import check_overlap


def run_check(folder, content, **options):
    """(content after the check, findings); options of `Findings` and `check_content` together."""
    of_findings = {k: options.pop(k) for k in ("drop_bad", "as_is") if k in options}
    findings = Findings(str(folder / "data.json"), **of_findings)
    return check_content(content, findings, str(folder), **options), findings


def reported(findings):
    return [(p.severity.value, p.kind, p.image_id, p.annotation_id) for p in findings.problems]


def ids(content):
    return [a["id"] for a in content["annotations"]]


@pytest.fixture
def dataset(tmp_path):
    content = coco_content()
    write_dataset(tmp_path, content)
    return tmp_path, content


def test_nothing_is_wrong_with_good_data(dataset):
    folder, content = dataset
    before = json.dumps(content)
    content, findings = run_check(folder, content, full=True)
    assert reported(findings) == [] and json.dumps(content) == before


def full_rle(height, width):
    """Run lengths, column by column: 1 pixel off, the rest on."""
    return {"size": [height, width], "counts": [1, height * width - 1]}


# What annotation 3 (of image 2) is changed to, and the kind of fault that this is.
UNUSABLE = {
    "unknown-image": {"image_id": 77},
    "unknown-category": {"category_id": 3},
    "ignore": {"ignore": 1},
    "iscrowd-form": {"iscrowd": "yes"},
    "iscrowd-form: null": {"iscrowd": None},
    "iscrowd-form: 2": {"iscrowd": 2},
    "no-mask": {"segmentation": []},
    "degenerate-polygon": {"segmentation": [[2, 2, 8, 6]]},
    "degenerate-polygon: odd": {"segmentation": [[2, 2, 8, 2, 8, 6, 2]]},
    "degenerate-polygon: line": {"segmentation": [[1, 1, 2, 2, 5, 5]]},
    "degenerate-polygon: null": {"segmentation": [[2, 2, 8, None, 8, 6]]},
    "degenerate-polygon: text": {"segmentation": [["2", "2", "8", "2", "8", "6"]]},
    "rle-form": {"segmentation": {"size": [10, 20]}},
    "rle-size": {"segmentation": full_rle(20, 10)},  # width and height exchanged
    "rle-counts": {"segmentation": {"size": [10, 20], "counts": [10, 20]}},
    "empty-mask": {"segmentation": {"size": [10, 20], "counts": [200]}},
    "box-outside": {"bbox": [20, 2, 6, 4]},
    "box-outside: left": {"bbox": [-6, 2, 6, 4]},
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_annotation_is_an_error_or_dropped(dataset, kind):
    folder, content = dataset
    content["annotations"][2].update(UNUSABLE[kind])
    image_id = 77 if kind == "unknown-image" else 2
    after, findings = run_check(folder, json.loads(json.dumps(content)))
    assert reported(findings) == [("error", kind.split(":")[0], image_id, 3)]
    after, findings = run_check(folder, content, drop_bad=True)
    assert reported(findings) == [("dropped", kind.split(":")[0], image_id, 3)]
    assert ids(after) == [1, 2, 4, 5, 6] and len(after["images"]) == 3


def test_a_box_without_area_and_without_mask_is_unusable(dataset):
    folder, content = dataset
    content["annotations"][2]["bbox"] = [2, 2, 0, 4]
    _, findings = run_check(folder, content, masks=False)
    assert reported(findings) == [("error", "empty-box", 2, 3)]


# Changes of annotation 3, the kind of fault, and what the annotation then has.
REPAIRED = {
    "empty-box": ({"bbox": [2, 2, 0, 4]}, {"bbox": [2, 2, 6, 4]}),
    "empty-box: missing": ({"bbox": []}, {"bbox": [2, 2, 6, 4]}),
    "empty-box: rle": (
        # 10 x 20, two columns off, then 5 columns on: x 2 to 7, y 0 to 10.
        {"bbox": [0, 0, -1, 2], "segmentation": {"size": [10, 20], "counts": [20, 50, 130]}},
        {"bbox": [2, 0, 5, 10]},
    ),
    "box-over-edge": ({"bbox": [-5, 2, 13, 30]}, {"bbox": [0, 2, 8, 8]}),
    "empty-box: 401 digits": ({"bbox": [2, 2, 10**400, 4]}, {"bbox": [2, 2, 6, 4]}),
    "empty-box: true": ({"bbox": [2, 2, True, 4]}, {"bbox": [2, 2, 6, 4]}),
    "area-form": ({"area": "x"}, {"area": 24}),
    "area-form: NaN": ({"area": float("nan")}, {"area": 24}),
    "area-form: negative": ({"area": -1}, {"area": 24}),
    "area-form: 401 digits": ({"area": 10**400}, {"area": 24}),
    "flat-polygon": ({"segmentation": SQUARE}, {"segmentation": [SQUARE]}),
    "degenerate-part": ({"segmentation": [[1, 1], SQUARE]}, {"segmentation": [SQUARE]}),
    "annotation-id-0": ({"id": 0}, {"id": 3}),
    "annotation-id-form": ({"id": "three"}, {"id": 3}),
}


@pytest.mark.parametrize("kind", REPAIRED)
def test_what_has_one_possible_repair_is_repaired(dataset, kind):
    folder, content = dataset
    change, expected = REPAIRED[kind]
    content["annotations"][2].update(change)
    after, findings = run_check(folder, content)
    number = change.get("id", 3)
    assert reported(findings) == [("repaired", kind.split(":")[0], 2, number)]
    assert {key: after["annotations"][2][key] for key in expected} == expected
    assert ids(after) == [1, 2, 3, 4, 5, 6]


def test_boxes_may_reach_over_the_edge_by_a_pixel(dataset):
    folder, content = dataset
    content["annotations"][2]["bbox"] = [-0.5, 2, 21, 8.9]
    _, findings = run_check(folder, content)
    assert reported(findings) == []


def test_ids_that_are_used_twice_are_renumbered(dataset):
    folder, content = dataset
    content["annotations"][4]["id"] = 1
    after, findings = run_check(folder, content)
    assert reported(findings) == [
        ("repaired", "duplicate-annotation-id", 1, 1),
        ("repaired", "duplicate-annotation-id", 3, 1),
    ]
    assert ids(after) == [1, 2, 3, 4, 5, 6]


def test_what_pycocotools_misses_is_filled_in(dataset):
    folder, content = dataset
    del content["info"], content["licenses"]
    for a in content["annotations"]:
        del a["area"], a["iscrowd"]
    after, findings = run_check(folder, content)
    kinds = ["no-info", "no-licenses", "no-area"]
    assert reported(findings) == [("repaired", kind, None, None) for kind in kinds]
    assert after["info"] == {} and after["licenses"] == []
    assert [(a["area"], a["iscrowd"]) for a in after["annotations"]] == [(24, 0)] * 6


def test_training_on_boxes_needs_no_masks(dataset):
    """`MODEL.MASK_ON False`: segmentations are not checked, and the area is that of the box."""
    folder, content = dataset
    for a in content["annotations"]:
        a.update(segmentation=[["no polygon"]], bbox=[2, 2, 5, 4])
        del a["area"]
    after, findings = run_check(folder, content, masks=False)
    assert [k for _, k, *_ in reported(findings)] == ["no-area"]
    assert [a["area"] for a in after["annotations"]] == [20] * 6


# Faults of image 2: what is done to its file or record.
def delete(path, image):
    path.unlink()


def truncate_header(path, image):
    path.write_bytes(path.read_bytes()[:10])


def another_size(path, image):
    save_image(path, 10, 20)


def sideways(path, image):
    """Stored 20 x 10, shown 10 x 20."""
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(path, 20, 10, exif=exif)


IMAGES = {
    "missing-image": delete,
    "unreadable-image": truncate_header,
    "size-mismatch": another_size,
    "exif-rotation": sideways,
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_unusable_image_is_an_error_or_dropped_with_its_annotations(dataset, kind):
    folder, content = dataset
    IMAGES[kind](folder / "2.png", content["images"][1])
    _, findings = run_check(folder, json.loads(json.dumps(content)))
    assert reported(findings) == [("error", kind, 2, None)]
    assert findings.problems[0].file == str(folder / "2.png")
    after, findings = run_check(folder, content, drop_bad=True)
    assert reported(findings) == [("dropped", kind, 2, None)]
    assert ids(after) == [1, 2, 5, 6] and [i["id"] for i in after["images"]] == [1, 3]


def test_two_images_with_one_id(dataset):
    folder, content = dataset
    content["images"][1]["id"] = 3
    _, findings = run_check(folder, content)
    assert ("error", "duplicate-image-id", 3, None) in reported(findings)
    assert "2.png, 3.png" in findings.problems[0].fault
    assert ("error", "unknown-image", 2, 3) in reported(findings)  # image 2 is no longer there


def test_one_file_for_two_images(dataset):
    folder, content = dataset
    content["images"][1]["file_name"] = "3.png"
    _, findings = run_check(folder, content)
    assert reported(findings) == [("warning", "file-twice", 3, None)]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_sizes_are_those_that_detectron2_reads(tmp_path, suffix):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.{suffix}"
        save_image(path, 20, 10, exif=exif)
        height, width, _ = utils.read_image(str(path), format="BGR").shape
        assert displayed_size(read_header(path)) == (width, height)


def test_exif_that_the_json_agrees_with_is_no_fault(dataset):
    """detectron2 rotates the image, and so did the tool that wrote 10 x 20 for a 20 x 10 file."""
    folder, content = dataset
    sideways(folder / "2.png", None)
    content["images"][1].update(width=10, height=20)
    _, findings = run_check(folder, content)
    assert reported(findings) == []


def test_exif_that_no_size_tells_of_is_a_warning(dataset):
    folder, content = dataset
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    save_image(folder / "2.png", exif=exif)
    _, findings = run_check(folder, content)
    assert reported(findings) == [("warning", "exif-rotation", 2, None)]


def test_sizes_that_the_json_lacks_are_read_from_the_file(dataset):
    folder, content = dataset
    del content["images"][1]["width"]
    after, findings = run_check(folder, content)
    assert reported(findings) == [("repaired", "no-image-size", 2, None)]
    assert (after["images"][1]["width"], after["images"][1]["height"]) == (20, 10)


def test_only_full_notices_damage_in_the_middle_of_a_file(tmp_path):
    content = coco_content(width=64, height=64)
    write_dataset(tmp_path, content, size=(64, 64))
    damaged = bytearray((tmp_path / "2.png").read_bytes())
    damaged[3000:3200] = bytes(200)
    (tmp_path / "2.png").write_bytes(damaged)
    _, findings = run_check(tmp_path, content)
    assert reported(findings) == []
    _, findings = run_check(tmp_path, content, full=True)
    assert reported(findings) == [("error", "unreadable-image", 2, None)]


def test_headers_are_sampled_until_one_is_wrong(tmp_path, monkeypatch):
    """Of 20 images every fifth header is read; a wrong one among them has all of them read."""
    monkeypatch.setattr("mrcnn_plugin.data.images.SAMPLE", 4)
    content = coco_content(20)
    write_dataset(tmp_path, content)
    save_image(tmp_path / "2.png", 10, 20)  # is not read: 1, 6, 11, 16 are
    _, findings = run_check(tmp_path, json.loads(json.dumps(content)))
    assert reported(findings) == []
    save_image(tmp_path / "6.png", 10, 20)
    _, findings = run_check(tmp_path, content)
    wrong = [(kind, image_id) for _, kind, image_id, _ in reported(findings)]
    assert sorted(wrong) == [("size-mismatch", 2), ("size-mismatch", 6)]


def test_everything_is_reported_at_once(dataset):
    folder, content = dataset
    (folder / "1.png").unlink()
    content["annotations"][2]["bbox"] = [50, 50, 2, 2]
    content["annotations"][3]["category_id"] = 9
    content["annotations"][5]["segmentation"] = [[0, 0, 1, 1]]
    _, findings = run_check(folder, content)
    assert {(k, i, a) for _, k, i, a in reported(findings)} == {
        ("missing-image", 1, None),
        ("box-outside", 2, 3),
        ("unknown-category", 2, 4),
        ("degenerate-polygon", 3, 6),
    }
    text = format_problems(findings.problems)
    assert f"{folder / 'data.json'}, image 2, annotation 3: box [50, 50, 2, 2]" in text


def test_data_that_others_load(dataset):
    """detectron2's own names: what detectron2 accepts is a warning, what it does not an error."""
    folder, content = dataset
    content["annotations"][2]["bbox"] = [2, 2, 0, 4]
    content["annotations"][3]["category_id"] = 9
    del content["images"][0]["height"]
    (folder / "3.png").unlink()
    _, findings = run_check(folder, content, as_is=True)
    assert sorted(reported(findings), key=str) == [
        ("error", "missing-image", 3, None),
        ("error", "no-image-size", 1, None),
        ("error", "unknown-category", 2, 4),
        ("warning", "empty-box", 2, 3),
    ]


def test_a_json_that_is_something_else(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(DataError, match=r"x.json does not exist"):
        read_coco_json(str(path))
    path.write_text('{"images": [')
    with pytest.raises(DataError, match=r"x.json is not json: .*column 13"):
        read_coco_json(str(path))
    path.write_text(json.dumps({"shapes": [], "imagePath": "a.jpg"}))
    with pytest.raises(
        DataError, match=r"lacks the list\(s\) images, annotations, categories .*co"
    ):
        read_coco_json(str(path))
    path.write_text(json.dumps({"images": [], "categories": []}))
    assert read_coco_json(str(path))["annotations"] == []  # COCO's test-dev
    content = coco_content()
    del content["annotations"][1]["image_id"], content["images"][0]["file_name"]
    path.write_text(json.dumps(content))
    expected = r"images\[0\] lacks file_name; annotations\[1\] lacks image_id"
    with pytest.raises(DataError, match=expected):
        read_coco_json(str(path))


def test_categories_that_are_there_twice_or_unused(dataset):
    folder, content = dataset
    content["categories"] += [{"id": 2, "name": "star"}, {"id": 5, "name": "disc"}]
    _, findings = run_check(folder, content)
    assert reported(findings)[:3] == [
        ("error", "duplicate-category", None, None),  # the id 2
        ("error", "duplicate-category", None, None),  # the name "disc"
        ("warning", "unused-category", None, None),  # id 5
    ]


def test_categories_are_matched_by_name(dataset):
    """A validation json that numbers its classes otherwise, has one more and lacks one."""
    folder, content = dataset
    content["categories"] = [{"id": 1, "name": "ring"}, {"id": 2, "name": "blob"}]
    names = ["disc", "ring"]
    after, findings = run_check(folder, content, class_names=names, drop_bad=True)
    assert [c["name"] for c in after["categories"]] == names
    assert [a["category_id"] for a in after["annotations"]] == [2, 2, 2]  # "ring", as it was 1
    assert reported(findings) == [
        ("repaired", "category-order", None, None),
        ("dropped", "unknown-class", 1, 2),
        ("dropped", "unknown-class", 2, 4),
        ("dropped", "unknown-class", 3, 6),
    ]


def test_ids_of_equal_lists_of_classes_become_contiguous(dataset):
    folder, content = dataset
    content["categories"] = [{"id": 44, "name": "ring"}, {"id": 7, "name": "disc"}]
    for a in content["annotations"]:
        a["category_id"] = {1: 7, 2: 44}[a["category_id"]]
    after, findings = run_check(folder, content, class_names=["disc", "ring"])
    assert reported(findings) == []
    assert after["categories"] == [{"id": 1, "name": "disc"}, {"id": 2, "name": "ring"}]
    assert [a["category_id"] for a in after["annotations"]] == [1, 2] * 3


@pytest.mark.parametrize("num_classes, expected", [(1, ["error"]), (2, []), (80, ["warning"])])
def test_num_classes(num_classes, expected):
    findings = Findings("a.json", as_is=True)
    check_num_classes(coco_content(), findings, num_classes)
    assert [p.severity.value for p in findings.problems] == expected
    if num_classes == 1:
        assert "set MODEL.ROI_HEADS.NUM_CLASSES 2" in str(findings.problems[0])


def test_the_same_image_in_training_and_validation(tmp_path):
    """By content: another name and another json, and two files of the same length differ."""
    train, val = coco_content(3), coco_content(2)
    write_dataset(tmp_path / "train", train)
    write_dataset(tmp_path / "val", val)
    for folder, name in (("train", "1"), ("val", "1"), ("train", "3")):
        Image.new("RGB", (20, 10), "red" if name == "1" else "blue").save(
            tmp_path / folder / f"{name}.bmp"
        )
    train["images"][0]["file_name"] = val["images"][0]["file_name"] = "1.bmp"
    train["images"][2]["file_name"] = "3.bmp"
    val["images"][0]["id"] = 11
    findings = Findings("train.json")
    roots = str(tmp_path / "train"), str(tmp_path / "val")
    assert check_overlap(train, roots[0], val, roots[1], findings) == {1}
    assert reported(findings) == [("error", "train-val-overlap", 1, None)]
    assert "validation image 11" in findings.problems[0].fault

    for content in (train, val):  # blank tiles without objects, of two large images
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 1]
    val["images"][0]["id"] = 1
    findings = Findings("train.json")
    assert check_overlap(train, roots[0], val, roots[1], findings) == set()
    assert reported(findings) == [("warning", "train-val-empty", None, None)]


def test_classes_of_validation_that_training_never_shows():
    train, val = coco_content(2), coco_content(2)
    train["annotations"] = [a for a in train["annotations"] if a["category_id"] == 1]
    train["annotations"].append(annotation(9, 1, 2, iscrowd=1))
    findings = Findings("val.json")
    check_unseen_classes([train], val, findings)
    (problem,) = findings.problems
    assert problem.severity is Severity.WARNING and "'ring' has 2 instances" in problem.fault


def test_the_voc_real_images_are_numbered_from_0(real_images):
    """One of the faults in the wild: labelme's own example."""
    folder = real_images / "labelme_voc3/data_dataset_coco"
    content = read_coco_json(str(folder / "annotations.json"))
    findings = Findings("annotations.json")
    after = check_content(content, findings, str(folder), full=True)
    repaired = [p for p in findings.problems if p.severity is Severity.REPAIRED]
    assert [(p.kind, p.annotation_id) for p in repaired] == [("annotation-id-0", 0)]
    assert ids(after) == list(range(1, 13))
    assert not [p for p in findings.problems if p.severity is Severity.ERROR]


def test_coco_real_images_have_no_error(real_images):
    for part in ("train2017", "val2017"):
        folder = real_images / "coco_tiny"
        content = read_coco_json(str(folder / f"annotations/instances_{part}.json"))
        findings = Findings(part)
        check_content(content, findings, str(folder / part), full=True)
        assert {p.kind for p in findings.problems} == {"unused-category"}


def test_long_reports_are_shortened_by_kind():
    problems = [Problem(Severity.ERROR, "a", f"fault {i}", "x.json", i) for i in range(5)]
    problems.append(Problem(Severity.REPAIRED, "b", "small", "x.json"))
    lines = format_problems(problems, limit=2).splitlines()
    assert lines == [
        "error: a (5)",
        "    x.json, image 0: fault 0",
        "    x.json, image 1: fault 1",
        "    ... and 3 more of this kind",
        "repaired: b (1)",
        "    x.json: small",
    ]


def test_compressed_rle_of_a_mask_is_accepted(dataset):
    folder, content = dataset
    mask = np.zeros((10, 20), np.uint8, order="F")
    mask[2:6, 2:8] = 1
    rle = mask_utils.encode(mask)
    rle["counts"] = rle["counts"].decode()
    content["annotations"][2].update(segmentation=rle)
    del content["annotations"][2]["area"]
    after, findings = run_check(folder, content)
    assert [k for _, k, *_ in reported(findings)] == ["no-area"]
    assert after["annotations"][2]["area"] == 24
