"""Finds images that are, or may come to be, on both sides of a split."""

import os
from typing import Any

import numpy as np

from .findings import Findings
from .near_duplicates import BITS, difference_hashes, join_near_duplicates, nearest_pairs
from .same_files import same_files


def check_overlap(
    train: dict, train_root: str, val: dict, val_root: str, findings: Findings
) -> set[Any]:
    """Report images of training whose file has the same bytes as one of validation.

    Pairs without any annotation, such as blank tiles, do not change the AP. They are a warning.

    Args:
        train, val: contents of two COCO json files.
        train_root, val_root: the directories their `file_name`s are relative to.
        findings: of the training set.

    Returns:
        ids of the others, which are also noted as unusable in `findings`.
    """
    ids, val_ids = _ids_by_path(train, train_root), _ids_by_path(val, val_root)
    annotated, val_annotated = ({a["image_id"] for a in c["annotations"]} for c in (train, val))
    overlap, empty = set(), []
    for path, val_path in same_files(list(ids), list(val_ids)).items():
        if ids[path] not in annotated and val_ids[val_path] not in val_annotated:
            empty.append(path)
            continue
        overlap.add(ids[path])
        fault = f"the same image is validation image {val_ids[val_path]}, {val_path}"
        hint = "remove it from one of the two; otherwise the AP is too high"
        findings.bad_image(ids[path], path, "train-val-overlap", fault, hint)
    if empty:
        fault = (
            f"{len(empty)} images without annotations, such as {empty[0]}, are in validation too"
        )
        findings.warning("train-val-empty", fault)
    return overlap


def check_near_duplicates(
    train: dict,
    train_root: str,
    val: dict,
    val_root: str,
    findings: Findings,
    thumbnails: dict[str, np.ndarray],
) -> None:
    """Report images of training that look like one of validation (`near_duplicates`).

    Args:
        train, train_root, val, val_root, findings: as of `check_overlap`.
        thumbnails: of the files that have been decoded; others are not compared.
    """
    sides = _ids_by_path(train, train_root), _ids_by_path(val, val_root)
    paths = [[path for path in side if path in thumbnails] for side in sides]
    hashes = [difference_hashes([thumbnails[path] for path in side]) for side in paths]
    for left, right, bits in nearest_pairs(*hashes):
        path, other = paths[0][left], paths[1][right]
        if sides[0][path] in findings.bad_images:  # byte by byte the same, or not used
            continue
        fault = f"looks like validation image {sides[1][other]}, {other} ({bits} of {BITS} bits"
        findings.warning(
            "train-val-near-duplicate",
            f"{fault} differ)",
            file=path,
            image_id=sides[0][path],
            action="keep both on one side, as `mrcnn dataset split` does",
        )


def check_separable(
    content: dict, image_root: str, findings: Findings, thumbnails: dict[str, np.ndarray]
) -> None:
    """Report tiles, and images that look the same, which a random split may separate.

    Args:
        content, image_root, findings: of a dataset that is not split yet.
        thumbnails: as of `check_near_duplicates`.
    """
    if any("tile" in image for image in content["images"]):
        findings.warning(
            "tiles",
            "the images are tiles of larger ones, which --val-fraction separates",
            action="use `mrcnn dataset split --group-by`, as `mrcnn dataset tile` prints it",
        )
    paths = [path for path in _ids_by_path(content, image_root) if path in thumbnails]
    hashes = difference_hashes([thumbnails[path] for path in paths])
    _, pairs = join_near_duplicates(hashes, np.arange(len(paths)))
    if pairs:
        first, second, _ = pairs[0]
        findings.warning(
            "near-duplicates",
            f"{len(pairs)} images look like another one, such as {paths[second]} like "
            f"{paths[first]}",
            action="--val-fraction may separate them; `mrcnn dataset split` keeps them together",
        )


def _ids_by_path(content: dict, root: str) -> dict[str, Any]:
    return {os.path.join(root, image["file_name"]): image["id"] for image in content["images"]}
