"""Splits by groups: what stays together, what depends on what, and how close the shares are."""

import numpy as np
import pytest

from mrcnn_plugin.data.coco_file import DataError
from mrcnn_plugin.data.split import (
    assign,
    check_fractions,
    closest_seed,
    name_groups,
    object_counts,
    split_content,
)

FRACTIONS = (0.7, 0.15, 0.15)


def test_groups_of_names():
    names = ["a/clip1_frame2.png", "a/clip1_frame10.png", "a/clip2_frame2.png", "still.png"]
    groups = ["a/clip1", "a/clip1", "a/clip2", "still.png"]
    assert name_groups(names, r"(.*)_frame\d+") == groups
    assert name_groups(names, None) == names


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("(a", "is no regular expression: missing"),
        ("frame", r"has no group\. Put what .* into parentheses"),
        ("(cat)", r"matches no file name, such as clip1_frame2\.png"),
    ],
)
def test_mistakes_in_the_pattern(pattern, message):
    with pytest.raises(DataError, match=message):
        name_groups(["clip1_frame2.png"], pattern)


def test_parts_depend_on_the_name_and_the_seed_only():
    names = [f"{k}.png" for k in range(2000)]
    parts = assign(names, FRACTIONS, 3)
    assert assign(names[::-1] * 2, FRACTIONS, 3) == parts
    fewer = assign(names[:1000], FRACTIONS, 3)
    assert fewer == {name: parts[name] for name in names[:1000]}
    assert assign(names, FRACTIONS, 4) != parts
    shares = np.bincount(list(parts.values())) / len(names)
    np.testing.assert_allclose(shares, FRACTIONS, atol=0.03)


@pytest.mark.parametrize("seed", range(20))
def test_every_part_has_a_group(seed):
    assert sorted(assign(["a", "b", "c"], FRACTIONS, seed).values()) == [0, 1, 2]


def test_fewer_groups_than_parts_are_an_error():
    with pytest.raises(DataError, match=r"are 2 group\(s\), which cannot be split into 3 parts"):
        assign(["a", "b", "b"], FRACTIONS, 0)


@pytest.mark.parametrize("fractions", [(1.0,), (0.5, 0.6), (0.5, 0.25, 0.125, 0.125), (1.2, -0.2)])
def test_fractions(fractions):
    check_fractions((0.8, 0.2))
    check_fractions((0.7, 0.2, 0.1))
    with pytest.raises(DataError, match=r"--fractions are .*; expected two"):
        check_fractions(fractions)


def test_the_closest_seed_has_shares_near_the_fractions():
    """60 groups of 1 to 5 images, a common and a rare class: half of the seeds are off by more."""
    rng = np.random.default_rng(0)
    groups = [f"group{g}" for g in range(60) for _ in range(rng.integers(1, 6))]
    common, rare = rng.poisson(5, len(groups)), rng.random(len(groups)) < 0.1
    counts = np.stack([np.ones(len(groups)), common, rare], 1)

    def worst(seed):
        part_of = assign(groups, FRACTIONS, seed)
        parts = np.array([part_of[group] for group in groups])
        shares = [counts[parts == part].sum(0) / counts.sum(0) for part in range(3)]
        return np.abs(np.array(shares) - np.array(FRACTIONS)[:, None]).max()

    seed, tried = closest_seed(groups, counts, FRACTIONS)
    assert tried == 100 and worst(seed) < 0.05 < 0.1 < np.median([worst(k) for k in range(100)])
    assert closest_seed([f"{k}" for k in range(100_000)], np.ones((100_000, 1)), FRACTIONS)[1] == 3


def content(number):
    return {
        "info": {"year": 2020},
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(number)],
        "annotations": [
            {"id": 7 * i, "image_id": i, "category_id": 5 + i % 2, "iscrowd": int(i == 3)}
            for i in range(number)
        ],
        "categories": [{"id": 5, "name": "a"}, {"id": 6, "name": "b"}],
    }


def test_objects_are_counted_without_crowds():
    expected = [[1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 0, 0]]
    np.testing.assert_array_equal(object_counts(content(4)), expected)


def test_contents_of_the_parts():
    whole = content(4)
    train, val = split_content(whole, [0, 1, 0, 1], 2)
    assert [i["id"] for i in train["images"]] == [0, 2]
    assert [a["id"] for a in val["annotations"]] == [7, 21]
    for part in (train, val):
        assert (part["info"], part["categories"]) == (whole["info"], whole["categories"])
    whole["images"][1]["id"] = 0
    with pytest.raises(DataError, match="two images have the same id"):
        split_content(whole, [0, 1, 0, 1], 2)
