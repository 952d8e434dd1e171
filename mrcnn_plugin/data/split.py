"""Splits a dataset into parts by groups of images, stable when images are added."""

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .coco_file import DataError
from .near_duplicates import difference_hashes, join_near_duplicates, read_thumbnails

PARTS = ("train", "val", "test")

_SEEDS, _MOST_PLACES = 100, 200_000  # that are tried; groups of all tries together


class Similar(NamedTuple):
    """Two images of different groups that look the same, and the images that cannot be read."""

    pairs: list[tuple[str, str, int]]  # file names, bits that differ
    unreadable: list[str]  # paths


def name_groups(names: Sequence[str], pattern: str | None) -> list[str]:
    """The group of each file name: what the first group of the regular expression matches in it.

    A name that does not match, or every one without a pattern, is its own group.

    Raises:
        DataError: the pattern is malformed, has no group, or matches no name.
    """
    if pattern is None:
        return list(names)
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise DataError(f"--group-by '{pattern}' is no regular expression: {error}") from error
    if not regex.groups:
        raise DataError(
            f"--group-by '{pattern}' has no group. Put what images of one source have in common "
            "into parentheses: '(.*)_tile'"
        )
    found = [regex.search(name) for name in names]
    groups = [match.group(1) if match else None for match in found]
    if names and not any(group is not None for group in groups):
        raise DataError(f"--group-by '{pattern}' matches no file name, such as {names[0]}")
    return [name if group is None else group for name, group in zip(names, groups)]


def join_similar(groups: list[str], paths: list[str]) -> tuple[list[str], Similar]:
    """Give groups that share a near duplicate one name, the first of their names in sorted order.

    Args:
        groups: of each image.
        paths: of each image; all of them are read.

    Returns:
        the new group of each image, and what joined them.
    """
    thumbnails: dict[str, np.ndarray] = {}
    unreadable = read_thumbnails(paths, thumbnails)
    names, labels = np.unique(np.asarray(groups, object), return_inverse=True)
    read = np.array([k for k, path in enumerate(paths) if path in thumbnails], int)
    hashes = difference_hashes([thumbnails[paths[k]] for k in read])
    joined, pairs = join_near_duplicates(hashes, labels[read])
    # Groups may also have images that were not read.
    of_label = np.arange(len(names))
    of_label[labels[read]] = joined
    shown = [(paths[read[a]], paths[read[b]], bits) for a, b, bits in pairs]
    return names[of_label[labels]].tolist(), Similar(shown, unreadable)


def assign(groups: Sequence[str], fractions: Sequence[float], seed: int) -> dict[str, int]:
    """The part of each group, which depends on its name and the seed, not on other groups.

    A hash of both is a number from 0 to 1, and the fractions divide this range. So parts have the
    fractions only on average. A part without any group takes the nearest group of a part that has
    several.

    Raises:
        DataError: there are fewer groups than parts.
    """
    names = sorted(set(groups))
    if len(names) < len(fractions):
        raise DataError(
            f"the images are {len(names)} group(s), which cannot be split into {len(fractions)} "
            "parts. Images of one group (--group-by, and near duplicates) are not separated; "
            "--no-similar ignores near duplicates"
        )
    places = {name: position(f"{seed}/{name}") for name in names}
    limits = np.cumsum(fractions)[:-1]
    parts = {name: int(np.searchsorted(limits, place, "right")) for name, place in places.items()}
    for part in range(len(fractions)):
        if part in parts.values():
            continue
        counts = Counter(parts.values())
        low, high = [0, *limits][part], [*limits, 1][part]
        movable = [name for name in names if counts[parts[name]] > 1]
        nearest = min(movable, key=lambda name: max(low - places[name], places[name] - high))
        parts[nearest] = part
    return parts


def closest_seed(
    groups: Sequence[str], counts: np.ndarray, fractions: Sequence[float]
) -> tuple[int, int]:
    """The seed of `assign` whose parts are closest to the fractions, and how many were tried.

    Args:
        groups: of each of N images.
        counts: (N, M): of M kinds of objects in each image. The difference from the fraction of a
            kind is divided by the square root of its total, which is what chance would make it.
        fractions: of the parts.
    """
    names, group_of = np.unique(np.asarray(groups, object), return_inverse=True)
    of_group = np.zeros((len(names), counts.shape[1]))
    np.add.at(of_group, group_of, counts)
    totals = counts.sum(axis=0)[:, None]
    seeds = range(min(_SEEDS, 1 + _MOST_PLACES // max(1, len(names))))

    def distance(seed: int) -> float:
        parts = assign(names.tolist(), fractions, seed)
        is_in = np.array([[parts[n] == part for n in names] for part in range(len(fractions))])
        faults = of_group.T @ is_in.T - totals * fractions
        return float(np.sum(np.abs(faults) / np.sqrt(np.maximum(totals, 1))))

    return min(seeds, key=distance), len(seeds)


def object_counts(content: dict) -> np.ndarray:
    """(images, 1 + categories): a 1, and the objects of each category without crowd regions."""
    row = {image["id"]: k for k, image in enumerate(content["images"])}
    column = {category["id"]: k for k, category in enumerate(content["categories"], start=1)}
    counts = np.zeros((len(content["images"]), 1 + len(column)))
    counts[:, 0] = 1
    for a in content["annotations"]:
        if a["image_id"] in row and a["category_id"] in column and not a.get("iscrowd"):
            counts[row[a["image_id"]], column[a["category_id"]]] += 1
    return counts


def position(text: str) -> float:
    """A hash of a text as a number from 0 to 1."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def check_fractions(fractions: Sequence[float]) -> None:
    """Raise a `DataError` unless these are two or three positive numbers of sum 1."""
    if not (
        2 <= len(fractions) <= len(PARTS)
        and all(fraction > 0 for fraction in fractions)
        and math.isclose(sum(fractions), 1, abs_tol=1e-6)
    ):
        raise DataError(
            f"--fractions are {' '.join(map(str, fractions))}; expected two (train, val) or three "
            "(train, val, test) positive numbers that add up to 1"
        )


def split_content(content: dict, parts: Sequence[int], number: int) -> list[dict]:
    """Contents with the images of each of `number` parts; ids and all other keys are kept.

    Args:
        content: a COCO json.
        parts: of each image.
        number: of parts. Annotations of unknown images go to the first, where a check reports them.
    """
    ids = [image["id"] for image in content["images"]]
    of_image = dict(zip(ids, parts))
    if len(of_image) < len(ids):
        raise DataError("two images have the same id; `mrcnn dataset check` lists them")
    result = []
    for part in range(number):
        images = [image for image in content["images"] if of_image[image["id"]] == part]
        annotations = [a for a in content["annotations"] if of_image.get(a["image_id"], 0) == part]
        result.append({**content, "images": images, "annotations": annotations})
    return result


def image_paths(content: dict, image_root: str) -> list[str]:
    """The path of each image of a COCO json."""
    return [os.path.join(image_root, image["file_name"]) for image in content["images"]]
