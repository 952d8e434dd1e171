"""Cuts a dataset of large images into tiles, masks included."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np
import pycocotools.mask as mask_utils
from detectron2.data import detection_utils as utils

from .crops import crop_mask
from .grid import Tile, cut_tiles
from .masks import image_sizes, to_rle
from .split import position

TILE_GROUP = r"^(.*?)_tile_\d+_\d+\.\w+$"  # the source in the name of a tile

_LARGE = 0.01  # of a tile: a part that covers it is no sliver, whatever its share of the object
_JPEG = (".jpg", ".jpeg")
_JPEG_OPTIONS = [
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
]


class Options(NamedTuple):
    """How images are cut.

    Attributes:
        size, overlap: of tiles in pixels (`cut_tiles`).
        min_visible: a part of an object is dropped if it has a smaller share of the object's pixels
            and covers less than 1% of its tile.
        empty: share of the tiles without annotations that is kept. The choice depends on names.
    """

    size: int = 1024
    overlap: int = 128
    min_visible: float = 0.1
    empty: float = 1.0


def tile_names(images: list[dict]) -> dict[Any, str]:
    """By image id, the start of the names of its tiles, which is unique and keeps subfolders."""
    paths = {image["id"]: PurePosixPath(image["file_name"]) for image in images}
    uses = Counter(path.with_suffix("") for path in paths.values())
    uses.update(set(paths.values()))  # a.png.png would otherwise have the name of a.png
    return {
        number: str(path if uses[path.with_suffix("")] > 1 else path.with_suffix(""))
        for number, path in paths.items()
    }


def tile_dataset(
    content: dict,
    image_root: str,
    folder: Path,
    options: Options,
    *,
    on_image: Callable[[], object] = lambda: None,
) -> tuple[dict, Counter]:
    """Write the tiles of all images into `folder`, one image at a time.

    Args:
        content: as `check_content` returns it, with masks. File names are relative and stay below
            `image_root`.
        image_root: the directory of the images.
        folder: receives PNG files, or JPEG of quality 95 for sources that are JPEG.
        options: how images are cut.
        on_image: called after each image.

    Returns:
        a COCO json with the masks of the tiles as RLE. Images have the file name and corner of
        their source as `tile`, and annotations have its id as `source_id`. Also counts of `tiles`,
        `empty`, `kept_empty`, `parts` and `slivers`.

    Raises:
        ValueError: the overlap does not fit the size (`cut_tiles`).
        OSError: a file cannot be written.
    """
    names, sizes = tile_names(content["images"]), image_sizes(content)
    by_image = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    images, annotations, counts = [], [], Counter()
    for source in content["images"]:
        start, size = names[source["id"]], sizes[source["id"]]
        kept = _cut_image(source, start, size, by_image[source["id"]], options, counts)
        pixels = _read(source, image_root) if kept else None
        for name, tile, found in kept:
            _write(folder / name, pixels[tile.top : tile.bottom, tile.left : tile.right])
            images.append(_record(len(images) + 1, name, tile, source))
            ids = itertools.count(len(annotations) + 1)
            annotations += [{"id": next(ids), "image_id": len(images), **part} for part in found]
        on_image()
    return {**content, "images": images, "annotations": annotations}, counts


def _cut_image(
    source: dict,
    start: str,
    size: tuple[int, int],
    annotations: list[dict],
    options: Options,
    counts: Counter,
) -> list[tuple[str, Tile, list[dict]]]:
    """(file name, which begins with `start`, tile, annotations) of the tiles that are kept."""
    tiles = cut_tiles(*size, options.size, options.overlap)
    cut = [
        (f"{start}_tile_{tile.top}_{tile.left}{_suffix(source)}", tile, parts)
        for tile, parts in zip(tiles, _cut_all(annotations, tiles, size, options, counts))
    ]
    kept = [(name, tile, parts) for name, tile, parts in cut if parts or _is_kept(name, options)]
    counts.update(tiles=len(cut), empty=sum(not parts for *_, parts in cut))
    counts.update(kept_empty=sum(not parts for *_, parts in kept))
    return kept


def _read(source: dict, image_root: str) -> np.ndarray:
    """(H, W, 3) uint8 BGR, rotated as EXIF says."""
    path = str(Path(image_root, source["file_name"]))
    pixels = utils.read_image(path, format="BGR")
    utils.check_image_size({**source, "file_name": path}, pixels)
    return pixels


def _suffix(source: dict) -> str:
    suffix = PurePosixPath(source["file_name"]).suffix.lower()
    return suffix if suffix in _JPEG else ".png"


def _record(number: int, name: str, tile: Tile, source: dict) -> dict:
    place = {"file_name": source["file_name"], "left": tile.left, "top": tile.top}
    width, height = tile.right - tile.left, tile.bottom - tile.top
    return {"id": number, "file_name": name, "width": width, "height": height, "tile": place}


def _is_kept(name: str, options: Options) -> bool:
    """Whether a tile without annotations is kept."""
    return position(name) < options.empty


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = _JPEG_OPTIONS if path.suffix in _JPEG else []
    if not cv2.imwrite(str(path), pixels, options):
        raise OSError(f"{path} could not be written")


def _cut_all(
    annotations: list[dict],
    tiles: list[Tile],
    size: tuple[int, int],
    options: Options,
    counts: Counter,
) -> list[list[dict]]:
    """Per tile, an annotation without ids of each part of the objects of an image."""
    result: list[list[dict]] = [[] for _ in tiles]
    for annotation in annotations:
        left, top, mask = crop_mask(to_rle(annotation["segmentation"], *size))
        box = Tile(left, top, left + mask.shape[1], top + mask.shape[0])
        pixels = int(mask.sum())
        for tile, found in zip(tiles, result):
            shared = tile.shared(box)
            if shared.is_empty:
                continue
            part = mask[shared.slices(box)]
            area = int(part.sum())
            is_sliver = area < min(options.min_visible * pixels, _LARGE * tile.area)
            if area == 0 or (is_sliver and not annotation["iscrowd"]):
                counts["slivers"] += area > 0
                continue
            counts["parts"] += not annotation["iscrowd"]
            found.append(_cut(annotation, part, shared, tile))
    return result


def _cut(annotation: dict, part: np.ndarray, shared: Tile, tile: Tile) -> dict:
    """The annotation of what is visible in a tile."""
    mask = np.zeros((tile.bottom - tile.top, tile.right - tile.left), np.uint8, order="F")
    mask[shared.slices(tile)] = part
    rle = mask_utils.encode(mask)
    return {
        "category_id": annotation["category_id"],
        "iscrowd": annotation["iscrowd"],
        "bbox": mask_utils.toBbox(rle).tolist(),
        "area": float(part.sum()),
        "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
        "source_id": annotation["id"],
    }
