"""Checks and repairs the annotations of a COCO json: ids, references and boxes.

Every function receives the content of a json and the `Findings` that it adds to. Annotations that
have only one possible repair are changed in the content. Masks are checked in masks.py.
"""

from collections import Counter
from typing import Any

from .box_form import boxes_from_masks, check_box_form, is_box
from .coco_file import has_bad_ids
from .findings import Findings
from .images import has_usable_size
from .masks import EDGE, annotation_area, check_masks, image_sizes, mask_box
from .records import is_number, shown

_MANY_CROWDS = 0.1  # of all annotations; COCO has 0.012


def check_annotations(
    content: dict, findings: Findings, *, masks: bool, rebuild_boxes: bool = False
) -> None:
    """Check every annotation; repair it or report it as unusable.

    Args:
        content: a COCO json whose images have `width` and `height`.
        findings: receives the problems; unusable annotations by their position in the list.
        masks: whether segmentations are used (`MODEL.MASK_ON`).
        rebuild_boxes: replace boxes that differ from those of their masks by more than a pixel.
    """
    check_header(content, findings)
    check_references(content, findings)
    measured = {image["id"] for image in content["images"] if has_usable_size(image)}
    findings.bad_annotations.update(
        k for k, a in enumerate(content["annotations"]) if a["image_id"] not in measured
    )
    if masks:
        check_masks(content, findings)
    if rebuild_boxes:
        boxes_from_masks(content, findings)
    check_box_form(content, findings, masks=masks)
    check_boxes(content, findings, masks=masks)
    fill_in(content, findings, masks=masks)
    check_crowds(content, findings)


def check_header(content: dict, findings: Findings) -> None:
    """Report missing `info` and `licenses`, which `make_evaluable` adds for pycocotools."""
    for key in ("info", "licenses"):
        if key not in content:
            fault = f"lacks '{key}', which raises a KeyError in pycocotools"
            findings.repaired(f"no-{key}", fault, "an empty one is used")


def check_references(content: dict, findings: Findings) -> None:
    """Report annotations of unknown images or categories, `ignore`, and `iscrowd` but 0 or 1."""
    images = {image["id"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    names = f"the file's ids are {sorted(categories, key=str)}"
    texts = None  # of the ids of images, for a hint; made once an image is unknown
    for index, annotation in enumerate(content["annotations"]):
        if annotation["image_id"] not in images:
            texts = {str(i): i for i in images} if texts is None else texts
            fault = f"there is no image {annotation['image_id']!r} in the file"
            hint = _type_hint(annotation["image_id"], texts)
            findings.bad_annotation(index, annotation, "unknown-image", fault, hint)
        elif annotation["category_id"] not in categories:
            fault = f"category {annotation['category_id']!r} is not in the file's categories"
            findings.bad_annotation(index, annotation, "unknown-category", fault, names)
        elif annotation.get("ignore"):
            fault = "is marked 'ignore', which detectron2 does not support"
            findings.bad_annotation(index, annotation, "ignore", fault, "use iscrowd instead")
        elif not _is_flag(annotation.get("iscrowd", 0)):
            fault = f"iscrowd is {shown(annotation['iscrowd'])}, expected 0 or 1"
            findings.bad_annotation(index, annotation, "iscrowd-form", fault)


def _type_hint(number: Any, texts: dict[str, Any]) -> str:
    """What to do about an id that exists as text instead of a number, or vice versa."""
    if str(number) not in texts:
        return ""
    return f"there is an image {texts[str(number)]!r}: write ids either as numbers or as text"


def _is_flag(value: Any) -> bool:
    return isinstance(value, (int, float)) and value in (0, 1)


def check_boxes(content: dict, findings: Findings, *, masks: bool) -> None:
    """Check for boxes that are missing, empty or outside the image.

    Args:
        content: a COCO json.
        findings: receives the problems.
        masks: whether masks have been checked. If so, the box of the mask replaces a box without
            area.
    """
    sizes = image_sizes(content)
    for index, annotation in enumerate(content["annotations"]):
        if index in findings.bad_annotations:
            continue
        box = annotation.get("bbox")
        if not is_box(box) or box[2] <= 0 or box[3] <= 0:
            box = _box_from_mask(index, annotation, findings, masks)
        if box is not None:
            _check_inside(index, annotation, findings, box, *sizes[annotation["image_id"]])


def _box_from_mask(index, annotation, findings, masks) -> list[float] | None:
    """The box around the mask, to replace one without area. Without a mask, None (and reported)."""
    fault = f"box {shown(annotation.get('bbox'))} (x, y, width, height) has no area"
    box = mask_box(annotation["segmentation"]) if masks else None
    if box is None or box[2] <= 0 or box[3] <= 0:
        findings.bad_annotation(index, annotation, "empty-box", fault)
        return None
    ids = annotation["image_id"], annotation["id"]
    findings.repaired("empty-box", fault, f"taken from its mask: {box}", *ids)
    annotation["bbox"] = box
    return box


def _check_inside(index, annotation, findings, box, height, width) -> None:
    x, y, w, h = box
    if x >= 0 and y >= 0 and x + w <= width + EDGE and y + h <= height + EDGE:
        return
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        fault = f"box {box} (x, y, width, height) is outside the {width} x {height} image"
        findings.bad_annotation(index, annotation, "box-outside", fault)
        return
    if x < -EDGE or y < -EDGE or x + w > width + EDGE or y + h > height + EDGE:
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        clipped = [x1, y1, x2 - x1, y2 - y1]
        fault = f"box {box} (x, y, width, height) exceeds the {width} x {height} image"
        ids = annotation["image_id"], annotation["id"]
        findings.repaired("box-over-edge", fault, f"clipped to {clipped}", *ids)
        annotation["bbox"] = clipped


def fill_in(content: dict, findings: Findings, *, masks: bool) -> None:
    """Add `iscrowd` and `area`, which COCOeval reads, where they are missing or `area` is unusable.

    Args: as of `check_boxes`.
    """
    good = [a for k, a in enumerate(content["annotations"]) if k not in findings.bad_annotations]
    missing = [a for a in good if "iscrowd" not in a or not _is_area(a.get("area"))]
    without = Counter(k for a in missing for k in ("iscrowd", "area") if k not in a)
    if without:
        text = ", ".join(f"{count} without '{key}'" for key, count in without.items())
        fault = f"annotations {text}, which raises a KeyError in COCOeval"
        findings.repaired("no-area", fault, "iscrowd 0 and the area of the mask or box are used")
    sizes = image_sizes(content)
    for annotation in missing:
        annotation.setdefault("iscrowd", 0)
        if not _is_area(annotation.get("area", 0)):
            fault = f"area is {shown(annotation['area'])}, expected a number of 0 or more"
            action = "the area of the mask or box is used"
            ids = annotation["image_id"], annotation["id"]
            findings.repaired("area-form", fault, action, *ids)
        if masks:
            annotation["area"] = annotation_area(annotation, *sizes[annotation["image_id"]])
        else:
            annotation["area"] = float(annotation["bbox"][2] * annotation["bbox"][3])


def _is_area(value: Any) -> bool:
    return is_number(value) and value >= 0


def check_crowds(content: dict, findings: Findings) -> None:
    """Report a dataset with so many crowd regions that `iscrowd` was probably set by mistake."""
    good = [a for k, a in enumerate(content["annotations"]) if k not in findings.bad_annotations]
    crowds = sum(bool(annotation["iscrowd"]) for annotation in good)
    if crowds > _MANY_CROWDS * len(good):
        fault = f"{crowds} of {len(good)} annotations are crowd regions"
        hint = "these are not trained on; if they are single objects, pass --crowds-as-objects"
        findings.warning("many-crowds", fault, action=hint)


def take_crowds_as_objects(content: dict, findings: Findings) -> None:
    """Set `iscrowd` 0 everywhere, for tools that export masks of single objects with 1."""
    crowds = [a for a in content["annotations"] if a.get("iscrowd") == 1]
    for annotation in crowds:
        annotation["iscrowd"] = 0
    if crowds:
        fault = f"{len(crowds)} annotations are crowd regions"
        findings.repaired("crowds", fault, "taken as objects because of --crowds-as-objects")


def check_annotation_ids(content: dict, findings: Findings) -> None:
    """Report ids that are 0, not unique or no integers; `make_evaluable` repairs them."""
    annotations = content["annotations"]
    if not has_bad_ids(annotations):
        return
    uses = Counter(str(annotation["id"]) for annotation in annotations)
    for annotation in annotations:
        number = annotation["id"]
        if not isinstance(number, int):
            kind, fault = "annotation-id-form", f"id {number!r} is not an integer"
        elif number == 0:
            kind, fault = "annotation-id-0", "id 0, which means 'unmatched' in COCOeval"
        elif uses[str(number)] > 1:
            kind = "duplicate-annotation-id"
            fault = f"{uses[str(number)]} annotations have the id {number}"
        else:
            continue
        action = "annotations are renumbered from 1"
        findings.repaired(kind, fault, action, annotation["image_id"], number)
