"""Compressed and uncompressed RLE that pycocotools would read wrongly, or past its end."""

import json

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from coco_files import coco_content, write_dataset

from mrcnn_plugin.data.check import check_content
from mrcnn_plugin.data.findings import Findings
from mrcnn_plugin.data.rle import compressed_faults


def compress(counts: list[int]) -> str:
    """COCO's code of run lengths, digit by digit, as cocoapi's `rleToString` is written."""
    text = ""
    for index, count in enumerate(counts):
        value, more = count - (counts[index - 2] if index > 2 else 0), True
        while more:
            digit, value = value & 31, value >> 5
            more = value != (-1 if digit & 16 else 0)
            text += chr(digit + (32 if more else 0) + 48)
    return text


def random_masks(number, rng):
    for _ in range(number):
        height, width = rng.integers(1, 60, 2)
        mask = rng.random((height, width)) < rng.random()
        mask[rng.integers(height), rng.integers(width)] = True
        yield np.asfortranarray(mask.astype(np.uint8))


def test_masks_of_pycocotools_are_accepted(monkeypatch):
    """Whatever the strings are divided into; a sum that is off by one is noticed in each."""
    masks = list(random_masks(300, np.random.default_rng(0)))
    strings = [mask_utils.encode(mask)["counts"] for mask in masks]
    pixels = [mask.size for mask in masks]
    for chunk in (1, 5000, 2**16):
        monkeypatch.setattr("mrcnn_plugin.data.rle._CHUNK", chunk)
        assert compressed_faults(strings, pixels) == [None] * 300
        found = compressed_faults(strings, [count + 1 for count in pixels])
        assert {kind for kind, _ in found} == {"rle-counts"}
    assert compressed_faults([], []) == []


def test_the_code_of_this_test_is_that_of_pycocotools():
    counts = [3, 70, 5, 2, 900, 20]
    expected = mask_utils.frPyObjects({"size": [10, 100], "counts": counts}, 10, 100)["counts"]
    assert compress(counts).encode() == expected


# Counts of a mask of 10 x 20 pixels, and a part of the message.
COUNTS = {
    "too short": (compress([10, 6]), "cover 16 pixels, expected 200"),
    "too long": (compress([100, 101]), "cover 201 pixels, expected 200"),
    "of a large mask": (compress([1, 4 * 10**8 - 1]), "cover 399999999 pixels, expected 200"),
    "negative run": (compress([100, 150, -50]), "a run of -50 pixels"),
    "negative through a difference": (compress([50, 60, 110, -20]), "a run of -20 pixels"),
    "garbage": ("o" * 300, "it ends early"),
    "long garbage": ("o" * 5000, "5000 characters, expected at most 416"),
    "ends in a number": (compress([100, 100])[:-1], "it ends early"),
    "seven digits": ("PPPPPP0", "not a compressed string"),
    "other characters": ("~ ~", "not a compressed string"),
    "not ASCII": ("äö", "not a compressed string"),
    "lone surrogate": ("\ud800", "not a compressed string"),
    "empty": ("", "not a compressed string"),
    "list: a float": ([100.0, 100], "not an integer"),
    "list: true": ([True, 199], "not an integer"),
    "list: negative": ([250, -50], "not an integer of 0 or more"),
    "list: nested": ([[100], 100], "not an integer"),
    "list: long": ([0] * 100_000 + [200], "100001 runs, expected at most 416"),
    "list: short": ([100, 99], "cover 199 pixels"),
}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("as_is", [False, True])
def test_counts_that_are_no_mask_are_an_error(tmp_path, name, as_is):
    """Also in data that others load: training would use uninitialised memory as a mask."""
    counts, message = COUNTS[name]
    content = coco_content()
    write_dataset(tmp_path, content)
    content["annotations"][2]["segmentation"] = {"size": [10, 20], "counts": counts}
    content["annotations"][3]["segmentation"] = {"size": [10, 20], "counts": compress([90, 110])}
    findings = Findings("data.json", as_is=as_is)
    after = check_content(json.loads(json.dumps(content)), findings, str(tmp_path))
    (problem,) = findings.problems
    assert (problem.severity.value, problem.kind) == ("error", "rle-counts")
    assert message in problem.fault
    assert str(problem).startswith("data.json, image 2, annotation 3: RLE")
    assert [a["id"] for a in after["annotations"]] == [1, 2, 4, 5, 6]


@pytest.mark.parametrize("size", [[10**9, 10**9], [20, 10], [10.0, 20.0], ["10", "20"], [[]], []])
def test_another_size_than_that_of_the_image(tmp_path, size):
    content = coco_content()
    write_dataset(tmp_path, content)
    content["annotations"][2]["segmentation"] = {"size": size, "counts": compress([100, 100])}
    findings = Findings("data.json")
    check_content(content, findings, str(tmp_path))
    assert [(p.kind, p.annotation_id) for p in findings.problems] == [("rle-size", 3)]
    assert "its image [10, 20]" in findings.problems[0].fault
