"""Validates datasets before training.

Reports all problems at once and repairs those with only one possible repair.
"""

from collections import Counter

import numpy as np

from .annotations import check_annotation_ids, check_annotations
from .coco_file import make_evaluable, sorted_class_names
from .findings import Findings
from .images import check_images
from .text import abbreviate


def check_content(
    content: dict,
    findings: Findings,
    image_root: str,
    *,
    class_names: list[str] | None = None,
    masks: bool = True,
    rebuild_boxes: bool = False,
    full: bool = False,
    thumbnails: dict[str, np.ndarray] | None = None,
) -> dict:
    """Check one COCO json and its images.

    Args:
        content: as `read_coco_json` returns it. Repairs change its records.
        findings: receives the problems. Its options select how severe they are.
        image_root: the directory that `file_name`s are relative to.
        class_names: the classes of the run; the categories of the file are matched by name.
        masks: whether segmentations are used (`MODEL.MASK_ON`).
        rebuild_boxes: take boxes that contradict their masks from the masks. It needs `masks`.
        full, thumbnails: decode every image and keep a thumbnail of it (`check_images`).

    Returns:
        the content without its unusable entries, and with the categories of the run.
    """
    check_categories(content, findings)
    check_images(content, image_root, findings, full=full, thumbnails=thumbnails)
    check_annotations(content, findings, masks=masks, rebuild_boxes=rebuild_boxes and masks)
    if class_names is not None:
        content = fit_categories(content, findings, class_names)
    content = drop_unusable(content, findings)
    check_annotation_ids(content, findings)
    return make_evaluable(content)


def check_categories(content: dict, findings: Findings) -> None:
    """Report category ids and names that are used twice, or not at all."""
    used = Counter(annotation["category_id"] for annotation in content["annotations"])
    for key in ("id", "name"):
        for value, count in Counter(c[key] for c in content["categories"]).items():
            if count > 1:
                fault = f"{count} categories have the {key} {value!r}"
                findings.error("duplicate-category", fault, action="give each its own")
    unused = [c["name"] for c in content["categories"] if not used[c["id"]]]
    if unused:
        fault = f"no annotation has the category {abbreviate(unused, 10)}"
        findings.warning("unused-category", fault)


def fit_categories(content: dict, findings: Findings, class_names: list[str]) -> dict:
    """Match the categories of a json by name to the classes of the run, with ids 1..K in order.

    detectron2 numbers the classes of each json by the order of its own ids. A validation json with
    another order would silently be evaluated against the wrong classes.
    """
    names = sorted_class_names(content)
    new_ids = {name: number for number, name in enumerate(class_names, start=1)}
    if names != list(class_names):
        fault = f"its categories are {_shown(names)}, the classes of the run are"
        findings.repaired("category-order", f"{fault} {_shown(class_names)}", "matched by name")
    old_names = {category["id"]: str(category["name"]) for category in content["categories"]}
    for index, annotation in enumerate(content["annotations"]):
        name = old_names.get(annotation["category_id"])
        if name in new_ids:
            annotation["category_id"] = new_ids[name]
        elif name is not None:
            fault = f"category '{name}' is not among the classes of the run"
            hint = f"these are {_shown(class_names)}"
            findings.bad_annotation(index, annotation, "unknown-class", fault, hint)
    return {**content, "categories": [{"id": i, "name": name} for name, i in new_ids.items()]}


def _shown(names: list[str]) -> str:
    return f"({abbreviate(names, 8)})"


def drop_unusable(content: dict, findings: Findings) -> dict:
    """`content` without the images and annotations that `findings` lists as unusable."""
    return {
        **content,
        "images": [i for i in content["images"] if i["id"] not in findings.bad_images],
        "annotations": [
            annotation
            for index, annotation in enumerate(content["annotations"])
            if index not in findings.bad_annotations
            and annotation["image_id"] not in findings.bad_images
        ],
    }


def check_num_classes(
    content: dict, findings: Findings, num_classes: int, *, evaluated: bool = False
) -> None:
    """Report a `MODEL.ROI_HEADS.NUM_CLASSES` that differs from the number of categories.

    With more categories, class id NUM_CLASSES would silently be trained as background. With fewer
    ones, detectron2's evaluation stops at the first detection of a class that the dataset lacks.
    """
    count = len(content["categories"])
    if count > num_classes:
        fault = f"{count} categories, but MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}"
        hint = f"set MODEL.ROI_HEADS.NUM_CLASSES {count}"
        findings.error("num-classes", fault, action=hint)
    elif count < num_classes:
        fault = f"{count} categories, but MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}"
        if evaluated:
            hint = f"an evaluation would fail; set MODEL.ROI_HEADS.NUM_CLASSES {count}"
            findings.error("num-classes", fault, action=hint)
        else:
            findings.warning("num-classes", fault, action="some classes have no data")


def check_trainable(content: dict, findings: Findings) -> None:
    """Report a dataset of which nothing would be trained on."""
    annotations = content["annotations"]
    if all(annotation.get("iscrowd") for annotation in annotations):
        fault = (
            f"there is nothing to train on: {len(content['images'])} usable images have "
            f"{len(annotations)} usable annotations"
        )
        hint = "annotate some objects"
        if annotations:
            fault += ", all of them crowd regions (iscrowd 1)"
            hint = "if they are single objects, pass --crowds-as-objects"
        elif findings.bad_annotations or findings.bad_images:
            hint = "the other problems say why the rest cannot be used"
        findings.error("nothing-to-train-on", fault, action=hint)


def check_unseen_classes(trains: list[dict], val: dict, findings: Findings) -> None:
    """Report classes with instances in validation but none in training: their AP can only be 0."""
    seen = set().union(*(_counts(train) for train in trains))
    for name, count in _counts(val).items():
        if name not in seen:
            fault = f"'{name}' has {count} instances here and none in training"
            findings.warning("unseen-class", fault, action="its AP can only be 0")


def _counts(content: dict) -> Counter:
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    known = (a for a in content["annotations"] if a["category_id"] in names)
    return Counter(names[a["category_id"]] for a in known if not a.get("iscrowd"))
