"""Polygons that enclose nothing, leave the image, or would take memory without bound."""

import json

import numpy as np
import pytest
from coco_files import SQUARE, coco_content, write_dataset

from mrcnn_plugin.data.check import check_content
from mrcnn_plugin.data.findings import Findings
from mrcnn_plugin.data.polygons import degenerate_polygons, polygon_faults


def test_degenerate_polygons():
    polygons = {
        "triangle": ([0, 0, 4, 0, 0, 3], False),
        "figure of 8, whose signed area is 0": ([0, 0, 2, 2, 2, 0, 0, 2], False),
        "far from the origin": ([5000.1, 5000.1, 5001.1, 5000.1, 5000.1, 5001.1], False),
        "a line there and back": ([0, 0, 3, 3, 1, 1, 2, 2], True),
        "one point": ([1, 1, 1, 1, 1, 1], True),
        "two points": ([0, 0, 4, 4], True),
        "NaN": ([0, 0, float("nan"), 0, 0, 3], True),
        "words": (["a", 0, 4, 0, 0, 3], True),
        "numbers as text": (["0", 0, 4, 0, 0, 3], True),
        "true": ([True, 0, 4, 0, 0, 3], True),
        "points as pairs": ([[0, 0], [4, 0], [0, 3], [1, 1], [2, 2], [3, 3]], True),
    }
    found = degenerate_polygons([polygon for polygon, _ in polygons.values()])
    assert dict(zip(polygons, found)) == {name: bad for name, (_, bad) in polygons.items()}
    assert degenerate_polygons([]).shape == (0,)


def test_far_polygons():
    """In an image of height 10 and width 20, x from -20 to 40 and y from -10 to 20 are near."""
    zigzag = [0, 0] + [v for i in range(60_000) for v in (20 * (i % 2), i % 10)] * 2
    polygons = {
        "inside": (SQUARE, False, -2),
        "at the limit": ([-20, -10, 40, -10, 40, 20], False, 20),
        "left": ([-20.1, 0, 4, 0, 0, 3], True, 20.1),
        "below": ([0, 0, 4, 0, 0, 20.5], True, 10.5),
        "1e30": ([0, 0, 1e30, 0, 0, 3], True, 1e30),
        "1e308": ([-1e308, 0, 1e308, 0, 0, 3], True, 1e308),
        "infinity": ([0, 0, float("inf"), 0, 0, 3], True, float("inf")),
        "an outline of 2.4 million pixels": (zigzag, True, 0),
    }
    faults = polygon_faults([p for p, *_ in polygons.values()], np.tile([10, 20], (8, 1)))
    assert dict(zip(polygons, faults.far)) == {name: far for name, (_, far, _) in polygons.items()}
    np.testing.assert_allclose(faults.overhang, [overhang for *_, overhang in polygons.values()])


def run_check(folder, content, **options):
    findings = Findings(str(folder / "data.json"), **options)
    return check_content(content, findings, str(folder)), findings


@pytest.mark.parametrize("value", [1e7, 1e9, 1e30, 1e308, float("inf"), -500, 10**400])
@pytest.mark.parametrize("parts", [[], [SQUARE]])
def test_a_far_vertex_is_an_error(tmp_path, value, parts):
    """Also as one of several polygons, and in data that others load: pycocotools would crash."""
    content = coco_content()
    write_dataset(tmp_path, content)
    content["annotations"][2]["segmentation"] = [[2, 2, value, 2, 8, 6], *parts]
    after, findings = run_check(tmp_path, json.loads(json.dumps(content)))
    (problem,) = findings.problems
    assert (problem.severity.value, problem.kind) == ("error", "far-polygon")
    assert (problem.image_id, problem.annotation_id) == (2, 3)
    assert "has the vertex (" in problem.fault and "20 x 10 image" in problem.fault
    assert [a["id"] for a in after["annotations"]] == [1, 2, 4, 5, 6]
    _, findings = run_check(tmp_path, content, as_is=True)
    assert [p.severity.value for p in findings.problems] == ["error"]


def test_a_vertex_slightly_outside_is_a_warning(tmp_path):
    content = coco_content()
    write_dataset(tmp_path, content)
    content["annotations"][2]["segmentation"] = [[-0.9, 2, 8, 2, 8, 6]]  # rounding: no warning
    content["annotations"][3]["segmentation"] = [[2, 2, 25.5, 2, 8, 6], SQUARE]
    after, findings = run_check(tmp_path, content)
    (problem,) = findings.problems
    assert (problem.severity.value, problem.kind) == ("warning", "polygon-over-edge")
    assert problem.annotation_id == 4 and "5.5 pixels outside" in problem.fault
    assert after["annotations"][3]["segmentation"][0][2] == 25.5  # used as it is
