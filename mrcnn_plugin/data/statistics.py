"""Statistics of a dataset: instances per class and per image, their sizes and overlap."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pycocotools.mask as mask_utils

from .coco_file import sorted_class_names, write_json

# COCO's limits of small, medium and large, in pixels of area.
SMALL, LARGE = 32**2, 96**2


class DatasetStatistics(NamedTuple):
    """Counts of one dataset. Crowd regions are not instances."""

    num_crowds: int
    per_class: dict[str, int]  # instances, in the order of the classes
    images_per_class: dict[str, int]
    per_image: np.ndarray  # (images,) instances
    areas: np.ndarray  # (N,) pixels
    crowding: np.ndarray  # (N,) largest IoU with another box of the image, 0 without one

    @property
    def sizes(self) -> dict[str, int]:
        """Instances below 32 x 32 pixels, from there to 96 x 96, and above."""
        small, large = int((self.areas < SMALL).sum()), int((self.areas > LARGE).sum())
        return {"small": small, "medium": len(self.areas) - small - large, "large": large}

    def summary(self) -> dict:
        """Plain Python values: `images`, `empty_images`, `instances`; `classes` {name: instances};
        `sizes`; `per_image` {instances per image: images}."""
        per_image = Counter(self.per_image.tolist())
        return {
            "images": len(self.per_image),
            "empty_images": per_image[0],
            "instances": len(self.areas),
            "classes": self.per_class,
            "sizes": self.sizes,
            "per_image": dict(sorted(per_image.items())),
        }


def coco_statistics(content: dict) -> DatasetStatistics:
    """Compute the statistics of a COCO json.

    Args:
        content: as `check_content` returns it.
    """
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    crowds = [a for a in content["annotations"] if a.get("iscrowd")]
    instances = [a for a in content["annotations"] if not a.get("iscrowd")]
    boxes = defaultdict(list)
    for a in instances:
        boxes[a["image_id"]].append(a["bbox"])
    per_class = Counter(names[a["category_id"]] for a in instances)
    pairs = {(a["image_id"], names[a["category_id"]]) for a in instances}
    images_per_class = Counter(name for _, name in pairs)
    order = sorted_class_names(content)
    return DatasetStatistics(
        num_crowds=len(crowds),
        per_class={name: per_class[name] for name in order},
        images_per_class={name: images_per_class[name] for name in order},
        per_image=np.array([len(boxes.get(i["id"], ())) for i in content["images"]], dtype=int),
        areas=np.array([a["area"] for a in instances], float),
        crowding=np.concatenate([largest_iou(group) for group in boxes.values()] or [[]]),
    )


def largest_iou(boxes: list[list[float]]) -> np.ndarray:
    """(N,) largest IoU of each of N boxes (x, y, width, height) with another one, 0 without one."""
    if not boxes:
        return np.zeros(0)
    iou = mask_utils.iou(boxes, boxes, [0] * len(boxes))
    np.fill_diagonal(iou, 0)
    return iou.max(axis=1)


def statistics_file(output_dir: str | Path, name: str) -> Path:
    """Where the statistics of a dataset of a run are saved."""
    return Path(output_dir, "datasets", f"{name}.statistics.json")


def save_statistics(statistics: DatasetStatistics, output_dir: str | Path, name: str) -> None:
    """Save the statistics of the dataset `name` for `read_statistics`."""
    fields = statistics._replace(
        per_image=statistics.per_image.tolist(),
        areas=statistics.areas.round(1).tolist(),
        crowding=statistics.crowding.round(3).tolist(),
    )
    write_json(fields._asdict(), statistics_file(output_dir, name))


def read_statistics(output_dir: str | Path, name: str) -> DatasetStatistics | None:
    """The statistics of the dataset `name` that a run with this `OUTPUT_DIR` saved, if any."""
    file = statistics_file(output_dir, name)
    if not file.exists():
        return None
    found = DatasetStatistics(**json.loads(file.read_text()))
    return found._replace(
        per_image=np.array(found.per_image, dtype=int),
        areas=np.array(found.areas, dtype=float),
        crowding=np.array(found.crowding, dtype=float),
    )
