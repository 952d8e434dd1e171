"""Json that is well-formed, but whose values are of other types than those of COCO json."""

import json

import pytest
from coco_files import coco_content, write_dataset

from mrcnn_plugin.cli.dataset import main
from mrcnn_plugin.data.coco_file import DataError, read_coco_json

DEEP = 600  # levels of nesting that json reads, and that repr() of a caller may not survive


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


# Place of a value, the value, and the message.
MALFORMED = {
    "file_name int": (("images", 1, "file_name"), 5, r"images\[1\]\.file_name is 5, expected text"),
    "file_name null": (("images", 1, "file_name"), None, "is None, expected text"),
    "file_name list": (("images", 1, "file_name"), ["a"], r"is \['a'\], expected text"),
    "file_name object": (("images", 1, "file_name"), {"a": 1}, "expected text"),
    "file_name null character": (("images", 1, "file_name"), "a\0", "without a null character"),
    "file_name surrogate": (("images", 1, "file_name"), "\ud800.png", "that UTF-8 can encode"),
    "image id object": (("images", 1, "id"), {}, r"images\[1\]\.id is {}, expected an integer or"),
    "image id list": (("images", 1, "id"), [2], "expected an integer or text"),
    "image id null": (("images", 1, "id"), None, "expected an integer or text"),
    "image id NaN": (("images", 1, "id"), float("nan"), "expected an integer or text"),
    "image id surrogate": (("images", 1, "id"), "\udcff", "that UTF-8 can encode"),
    "image ids mixed": (
        ("images", 0, "id"),
        "1",
        "images are partly text and partly numbers, such",
    ),
    "image no object": (("images", 1), 3, r"images\[1\] is 3, expected an object"),
    "image_id list": (("annotations", 2, "image_id"), [1], r"annotations\[2\]\.image_id is \[1\]"),
    "image_id deep": (("annotations", 2, "image_id"), nested(DEEP), "expected an integer or text"),
    "annotation id list": (("annotations", 2, "id"), [1], r"annotations\[2\]\.id is \[1\]"),
    "category_id object": (("annotations", 2, "category_id"), {"id": 1}, "expected an integer or"),
    "category_id true": (("annotations", 2, "category_id"), True, "is True, expected an integer"),
    "category_id 1e18 times 100": (("annotations", 2, "category_id"), 10**20, "of 64 bits"),
    "category id list": (("categories", 0, "id"), [1], r"categories\[0\]\.id is \[1\], expected"),
    "category ids mixed": (("categories", 0, "id"), "1", "partly text and partly numbers"),
    "category name object": (("categories", 0, "name"), {}, r"categories\[0\]\.name is {}, expec"),
    "category name null": (("categories", 0, "name"), None, "is None, expected text"),
    "category name surrogate": (("categories", 0, "name"), "\ud800", "that UTF-8 can encode"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_records_are_one_error(tmp_path, name):
    *path, key = MALFORMED[name][0]
    content = coco_content()
    write_dataset(tmp_path, content)
    place = content
    for step in path:
        place = place[step]
    place[key] = MALFORMED[name][1]
    json_file = write_dataset(tmp_path, content, images=False)
    with pytest.raises(DataError, match=MALFORMED[name][2]) as raised:
        read_coco_json(str(json_file))
    assert len(str(raised.value)) < 600
    message = main(["check", f"{json_file}:{tmp_path}"])  # a text is exit status 1
    assert message.startswith(f"mrcnn dataset: {json_file}: ") and message.encode()


TOP_LEVEL = {
    "null": "is null",
    "[1, 2]": "is a list",
    '"images"': "is text",
    "5": "is a number",
    "true": "is true or false",
    "[" * 100_000 + "]" * 100_000: "nested too deeply",
    '{"images": ' + "[" * 100_000 + "]" * 100_000 + "}": "nested too deeply",
    '{"images": [' + "9" * 5000 + "]}": "4300 digits",
    "\ufeff{}": "lacks the list(s) images",
}


@pytest.mark.parametrize("text", TOP_LEVEL, ids=lambda text: text[:12])
def test_json_of_another_kind(tmp_path, text):
    path = tmp_path / "data.json"
    path.write_text(text)
    message = main(["check", str(path)])
    assert message.startswith(f"mrcnn dataset: {path} is not ") and TOP_LEVEL[text] in message


# A field of annotation 3 that no entry needs to be read with, and the kind of the finding.
FIELDS = {
    "bbox 401 digits": ("bbox", [2, 2, 10**400, 4], "empty-box"),
    "bbox deep": ("bbox", nested(DEEP), "empty-box"),
    "bbox object": ("bbox", {"x": 1}, "empty-box"),
    "area text": ("area", "x", "area-form"),
    "area NaN": ("area", float("nan"), "area-form"),
    "iscrowd text": ("iscrowd", "yes", "iscrowd-form"),
    "iscrowd list": ("iscrowd", [], "iscrowd-form"),
    "segmentation text": ("segmentation", "x", "no-mask"),
    "segmentation deep": ("segmentation", nested(DEEP), "degenerate-polygon"),
    "segmentation objects": ("segmentation", [{}], "degenerate-polygon"),
    "counts object": ("segmentation", {"size": [10, 20], "counts": {}}, "rle-form"),
    "size deep": ("segmentation", {"size": nested(DEEP), "counts": []}, "rle-size"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_malformed_fields_are_findings(tmp_path, name, capsys):
    key, value, kind = FIELDS[name]
    content = coco_content()
    content["annotations"][2][key] = value
    json_file = write_dataset(tmp_path, content)
    status = main(["check", f"{json_file}:{tmp_path}"])
    lines = capsys.readouterr().out.splitlines()
    severity = "repaired" if kind in ("empty-box", "area-form") else "error"
    assert lines[0] == f"{severity}: {kind} (1)"
    assert lines[1].startswith(f"    {json_file}, image 2, annotation 3: ")
    assert len(lines[1]) < 400 and status == (severity == "error")


def test_ids_may_be_numbers_or_text(tmp_path):
    content = coco_content()
    content["images"][1]["id"] = 2.0
    content["categories"][0]["name"] = 7
    json_file = write_dataset(tmp_path, content)
    assert main(["check", f"{json_file}:{tmp_path}"]) == 0
    for one in content["images"]:
        one["id"] = f"n{one['id']:.0f}"
    for one in content["annotations"]:
        one["image_id"] = f"n{one['image_id']}"
    json_file.write_text(json.dumps(content))
    assert main(["check", f"{json_file}:{tmp_path}"]) == 0
