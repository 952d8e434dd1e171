"""Converts masks as PNG: one id per instance, with or without a class PNG as in PASCAL VOC."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..coco_file import DataError
from ..text import abbreviate
from .writer import CocoWriter, find_images

_JPEG = ("JPEG", "MPO")  # formats of Pillow
_BORDER = 255  # VOC: pixels that belong to no object and not to the background

# PASCAL VOC 2012, in the order of its class ids, which start at 1.
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa"),
    *("train", "tv/monitor"),
)


def from_instance_masks(
    masks: str | Path, images: str | Path, class_names: Sequence[str] | None = None
) -> dict:
    """Convert PNGs whose pixels are instance ids, 0 being background.

    Masks are 8 or 16 bit, gray or with a palette, and named like their image. Objects of one class
    are in `masks`, those of several in one subdirectory per class: `masks/cell/001.png`,
    `masks/nucleus/001.png`.

    Args:
        masks: directory of the PNGs.
        images: directory of the images; those without a mask are kept as background.
        class_names: the categories in order. None means the sorted subdirectories, or "object".

    Returns:
        the content of a COCO json, masks as RLE.

    Raises:
        DataError: a mask has no image, has another size than it, or is a colour image or a JPEG.
    """
    masks, images = Path(masks), Path(images)
    folders = {path.name: path for path in sorted(masks.iterdir()) if path.is_dir()}
    if not folders:
        folders = {class_names[0] if class_names and len(class_names) == 1 else "object": masks}
    by_class = {name: find_images(folder) for name, folder in folders.items()}
    image_files = find_images(images)
    for paths in by_class.values():
        _check_pairs(paths, image_files, images)
    writer = CocoWriter(class_names, f"instance masks of {masks.name}")
    for stem, path in image_files.items():
        image = writer.add_image(path.name, path)
        for name, paths in by_class.items():
            if stem in paths:
                for _, mask in _instances(read_ids(paths[stem], image)):
                    writer.add_mask(image, name, mask)
    return writer.content()


def from_voc(
    root: str | Path, images: str | Path, class_names: Sequence[str] | None = None
) -> dict:
    """Convert `SegmentationObject/*.png` (instance ids) and `SegmentationClass/*.png` (class ids).

    255 in either belongs to no object and not to the background: the border of VOC, and regions
    that labelme calls `__ignore__`.

    Args:
        root: directory with both.
        images: directory of the images, for VOC `root/JPEGImages`.
        class_names: classes of the ids 1, 2, ...; a leading `__ignore__` and `_background_`, as in
            labelme's `labels.txt` and `class_names.txt`, stand for -1 and 0.
            None means the twenty classes of VOC.

    Returns:
        the content of a COCO json, masks as RLE.

    Raises:
        DataError: a mask has no partner, has another size, is a JPEG, or has an id without class.
    """
    root, images = Path(root), Path(images)
    names = [n for n in class_names or VOC_CLASSES if n not in ("__ignore__", "_background_")]
    objects, classes = (find_images(root / f"Segmentation{k}") for k in ("Object", "Class"))
    image_files = find_images(images)
    _check_pairs(objects, image_files, images)
    _check_pairs(objects, classes, root / "SegmentationClass")
    writer = CocoWriter(names, f"VOC masks of {root.name}")
    for stem, path in objects.items():
        image = writer.add_image(image_files[stem].name, image_files[stem])
        ids, class_ids = read_ids(path, image), read_ids(classes[stem], image)
        ids[(ids == _BORDER) | (class_ids == _BORDER)] = 0
        for number, mask in _instances(ids):
            class_id = _class_id(class_ids[mask], number, path, names)
            writer.add_mask(image, names[class_id - 1], mask)
    return writer.content()


def _check_pairs(masks: dict[str, Path], partners: dict[str, Path], folder: Path) -> None:
    unpaired = [path for stem, path in masks.items() if stem not in partners]
    if unpaired:
        raise DataError(f"{abbreviate(unpaired, 3)}: no file of this name in {folder}")


def read_ids(path: Path, image: dict) -> np.ndarray:
    """(height, width) int32 ids of a gray or palette PNG.

    Raises:
        DataError: it is a colour image or a JPEG, or its size differs from that of the image.
    """
    with Image.open(path) as opened:
        if opened.format in _JPEG:
            raise DataError(
                f"{path} is a JPEG, whose compression changes ids and so adds objects that do not "
                "exist. Expected a PNG: export the masks as PNG"
            )
        ids = np.array(opened)
    expected = image["height"], image["width"]
    if ids.ndim != 2:
        raise DataError(
            f"{path} is a colour image ({opened.mode}). Expected one id per pixel, gray (8 or 16 "
            "bit) or with a palette"
        )
    if ids.shape != expected:
        raise DataError(f"{path} has (height, width) {ids.shape}, its image {expected}")
    return ids.astype(np.int32)


def _instances(ids: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(id, (height, width) bool mask) of each id except 0."""
    for number in np.unique(ids[ids != 0]).tolist():
        yield number, ids == number


def _class_id(values: np.ndarray, number: int, path: Path, names: list[str]) -> int:
    """The one class of an instance's pixels."""
    found = np.unique(values[values != 0]).tolist()
    if len(found) != 1 or found[0] > len(names):
        raise DataError(
            f"{path}: instance {number} has the class ids {found}; expected one from 1 to "
            f"{len(names)}"
        )
    return found[0]
