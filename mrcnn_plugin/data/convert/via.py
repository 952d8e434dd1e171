"""Converts VGG Image Annotator 2: one json of regions, each a shape with attributes."""

import json
from collections.abc import Sequence
from pathlib import Path

from ..coco_file import DataError
from .writer import CocoWriter, ellipse, flatten, rectangle


def from_via(
    json_file: str | Path,
    images: str | Path,
    class_names: Sequence[str] | None = None,
    *,
    attribute: str | None = None,
) -> dict:
    """Convert a VIA 2 project, or its exported annotations (json).

    Polygons, rectangles, circles and ellipses are converted. Points and polylines enclose nothing
    and are skipped. Images without regions are kept as background.

    Args:
        json_file: the project or export.
        images: directory of the images, which VIA does not record.
        class_names: the categories in order. None means those that occur, sorted.
        attribute: region attribute that names the class. None means the only one that occurs. If
            none occurs, the class is the only one of `class_names`, or "object".

    Returns:
        the content of a COCO json.

    Raises:
        DataError: the file is not from VIA, an image is missing, or the attribute is ambiguous.
    """
    json_file, images = Path(json_file), Path(images)
    files = _read(json_file)
    attribute = _class_attribute(files, json_file, attribute)
    only_class = class_names[0] if class_names and len(class_names) == 1 else "object"
    writer = CocoWriter(class_names, f"VIA regions of {json_file.name}")
    for file in files:
        image = writer.add_image(file["filename"], images / file["filename"])
        for number, region in enumerate(_regions(file)):
            polygon = _to_polygon(region["shape_attributes"])
            if polygon is None:
                continue
            name = _class_of(region["region_attributes"], attribute) if attribute else only_class
            if not name:
                raise DataError(
                    f"{json_file}: region {number} of {file['filename']} has no '{attribute}'. "
                    "Set it in VIA"
                )
            writer.add_polygons(image, name, [polygon])
    return writer.content()


def _read(json_file: Path) -> list[dict]:
    try:
        content = json.loads(json_file.read_bytes())  # of bytes: accepts a byte order mark
    except (OSError, ValueError) as error:
        raise DataError(f"{json_file} cannot be read as json: {error}") from error
    if isinstance(content, dict):
        content = content.get("_via_img_metadata", content)  # a project; else an export
    files = list(content.values()) if isinstance(content, dict) else []
    if not files or not all(
        isinstance(f, dict) and {"filename", "regions"} <= set(f) for f in files
    ):
        raise DataError(
            f"{json_file} is not a json of VIA 2. Expected images with 'filename' and 'regions'"
        )
    return sorted(files, key=lambda file: file["filename"])


def _regions(file: dict) -> list[dict]:
    """The regions of a file: a list in VIA 2, a dict by number in VIA 1."""
    regions = file["regions"]
    return list(regions.values()) if isinstance(regions, dict) else regions


def _class_attribute(files: list[dict], json_file: Path, wanted: str | None) -> str | None:
    found = sorted({key for f in files for r in _regions(f) for key in r["region_attributes"]})
    if wanted and wanted not in found:
        raise DataError(
            f"{json_file}: no region has the attribute '{wanted}'. "
            + (f"The regions have {', '.join(found)}" if found else "The regions have none")
            + ". Correct --attribute, or leave it out"
        )
    if wanted:
        return wanted
    if len(found) > 1:
        raise DataError(
            f"{json_file}: the regions have the attributes {', '.join(found)}. Select the one that "
            "names the class with --attribute"
        )
    return found[0] if found else None


def _class_of(attributes: dict, attribute: str) -> str:
    """The class of a region; a text or dropdown has a string, a checkbox {"name": true}."""
    value = attributes.get(attribute, "")
    if isinstance(value, dict):
        ticked = [name for name, on in value.items() if on]
        return ticked[0] if len(ticked) == 1 else ""
    return str(value).strip()


def _to_polygon(shape: dict) -> list[float] | None:
    kind = shape["name"]
    if kind == "polygon":
        return flatten(zip(shape["all_points_x"], shape["all_points_y"]))
    if kind == "rect":
        x, y = shape["x"], shape["y"]
        return rectangle(x, y, x + shape["width"], y + shape["height"])
    if kind == "circle":
        return ellipse(shape["cx"], shape["cy"], shape["r"], shape["r"])
    if kind == "ellipse":
        return ellipse(*(shape[k] for k in ("cx", "cy", "rx", "ry")), shape.get("theta", 0.0))
    return None
