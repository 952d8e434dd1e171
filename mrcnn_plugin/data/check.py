"""The check of data sets before training: every problem at once, mended where that is no guess."""

import os
from collections import Counter
from typing import Any

from .annotations import check_annotations, renumber
from .coco_file import sorted_class_names, without_gc
from .findings import Findings
from .images import check_images, same_files


@without_gc()
def check_content(
    content: dict,
    findings: Findings,
    image_root: str,
    *,
    class_names: list[str] | None = None,
    masks: bool = True,
    full: bool = False,
) -> dict:
    """Look at one COCO json and its images.

    Args:
        content: as `read_coco_json` returns it; its records are changed where they are mended.
        findings: receives the problems, and says whether to mend and what to leave out.
        image_root: the directory `file_name`s start from.
        class_names: the classes of the run; the file's categories are fitted to them by name.
        masks: whether segmentations are used (`MODEL.MASK_ON`).
        full: decode every image (`check_images`).

    Returns:
        the content without what is unusable and with the categories of the run, if
        `findings.repair`; the same content otherwise.
    """
    check_categories(content, findings)
    check_images(content, image_root, findings, full=full)
    check_annotations(content, findings, masks=masks)
    if findings.repair:
        if class_names is not None:
            content = fit_categories(content, findings, class_names)
        content = _without_unusable(content, findings)
    renumber(content, findings)
    return content


def check_categories(content: dict, findings: Findings) -> None:
    """Category ids and names that are used twice, or not at all."""
    used = Counter(annotation["category_id"] for annotation in content["annotations"])
    for key in ("id", "name"):
        for value, count in Counter(c[key] for c in content["categories"]).items():
            if count > 1:
                fault = f"{count} categories have the {key} {value!r}"
                findings.error("duplicate-category", fault, action="give each its own")
    unused = [c["name"] for c in content["categories"] if not used[c["id"]]]
    if unused:
        more = f" and {len(unused) - 10} more" if len(unused) > 10 else ""
        fault = f"no annotation has the category {', '.join(map(str, unused[:10]))}{more}"
        findings.warning("unused-category", fault)


def fit_categories(content: dict, findings: Findings, class_names: list[str]) -> dict:
    """Give a json the classes of the run, by name; ids stay as they are when the lists are equal.

    detectron2 numbers the classes of each json by its own ids: with other ids, or another order, a
    validation json would silently be evaluated against the wrong classes.
    """
    names = sorted_class_names(content)
    if names == list(class_names):
        return content
    new_ids = {name: number for number, name in enumerate(class_names, start=1)}
    findings.repaired(
        "category-order",
        f"its categories are {_listed(names)}, those of the run {_listed(class_names)}",
        "matched by name",
    )
    old_names = {category["id"]: str(category["name"]) for category in content["categories"]}
    for index, annotation in enumerate(content["annotations"]):
        name = old_names.get(annotation["category_id"])
        if name in new_ids:
            annotation["category_id"] = new_ids[name]
        elif name is not None:
            fault = f"category '{name}' is not among the classes of the run"
            hint = f"these are {_listed(class_names)}"
            findings.bad_annotation(index, annotation, "unknown-class", fault, hint)
    categories = [{"id": number, "name": name} for name, number in new_ids.items()]
    return {**content, "categories": categories}


def _listed(names) -> str:
    names = list(map(str, names))
    return f"({', '.join(names[:8])}{', ...' if len(names) > 8 else ''}; {len(names)} in all)"


def _without_unusable(content: dict, findings: Findings) -> dict:
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


def check_num_classes(content: dict, findings: Findings, num_classes: int) -> None:
    """More categories than `MODEL.ROI_HEADS.NUM_CLASSES`: id NUM_CLASSES means background."""
    count = len(content["categories"])
    if count > num_classes:
        fault = f"{count} categories, but MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}"
        hint = f"set MODEL.ROI_HEADS.NUM_CLASSES {count}"
        findings.error("num-classes", fault, action=hint)
    elif count < num_classes:
        fault = f"{count} categories, but MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}"
        findings.warning("num-classes", fault, action="some classes are never seen")


def check_overlap(
    train: dict, train_root: str, val: dict, val_root: str, findings: Findings
) -> set[Any]:
    """Images of training whose file has the same bytes as one of validation.

    Args:
        train, val: contents of two COCO json files.
        train_root, val_root: the directories their `file_name`s start from.
        findings: of the training set.

    Returns:
        ids of these images, which are also noted as unusable in `findings`.
    """
    paths = [
        {os.path.join(root, image["file_name"]): image["id"] for image in content["images"]}
        for content, root in ((train, train_root), (val, val_root))
    ]
    overlap = set()
    for train_path, val_path in same_files(*map(list, paths)).items():
        image_id = paths[0][train_path]
        overlap.add(image_id)
        fault = f"the same picture is validation image {paths[1][val_path]}, {val_path}"
        hint = "take it out of one of the two, or the evaluation flatters"
        findings.bad_image(image_id, train_path, "train-val-overlap", fault, hint)
    return overlap


def check_unseen_classes(trains: list[dict], val: dict, findings: Findings) -> None:
    """Classes with instances in validation, but none in training: their AP can only be 0."""
    seen = set().union(*(_counts(train) for train in trains))
    for name, count in _counts(val).items():
        if name not in seen:
            fault = f"'{name}' has {count} instances here and none in training"
            findings.warning("unseen-class", fault, action="its AP can only be 0")


def _counts(content: dict) -> Counter:
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    known = (a for a in content["annotations"] if a["category_id"] in names)
    return Counter(names[a["category_id"]] for a in known if not a.get("iscrowd"))


def has_rle(content: dict) -> bool:
    """Whether an annotation that is trained on (no crowd) has an RLE mask."""
    return any(
        isinstance(annotation.get("segmentation"), dict) and not annotation.get("iscrowd")
        for annotation in content["annotations"]
    )
