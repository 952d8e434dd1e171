"""What is in a data set: instances per class, their sizes, how many an image, how they overlap."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np

from .coco_file import sorted_class_names

matplotlib.use("Agg", force=False)
from matplotlib import pyplot as plt

# COCO's limits of small, medium and large, in pixels of area.
SMALL, LARGE = 32**2, 96**2

_BARS = 40  # classes that are drawn; the table has all


class DatasetStats(NamedTuple):
    """Counts of one COCO json; crowd regions are not instances."""

    num_images: int
    num_empty_images: int
    num_crowds: int
    per_class: dict[str, int]  # instances, in the order of the classes
    images_per_class: dict[str, int]
    areas: np.ndarray  # (N,) pixels
    per_image: np.ndarray  # (images,) instances
    crowding: np.ndarray  # (N,) largest IoU with another box of the image, 0 alone

    @property
    def small_medium_large(self) -> tuple[int, int, int]:
        """Instances below 32 x 32 pixels, from there to 96 x 96, above."""
        small, large = int((self.areas < SMALL).sum()), int((self.areas > LARGE).sum())
        return small, len(self.areas) - small - large, large


def dataset_stats(content: dict) -> DatasetStats:
    """Count.

    Args:
        content: a COCO json that the check found nothing unusable in.
    """
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    instances = [a for a in content["annotations"] if not a.get("iscrowd")]
    boxes: dict = {image["id"]: [] for image in content["images"]}
    for annotation in instances:
        boxes[annotation["image_id"]].append(annotation["bbox"])
    areas = np.array([a["area"] for a in instances], dtype=float)
    count = Counter(names[a["category_id"]] for a in instances)
    pairs = {(a["image_id"], names[a["category_id"]]) for a in instances}
    image_count = Counter(name for _, name in pairs)
    order = sorted_class_names(content)
    return DatasetStats(
        num_images=len(boxes),
        num_empty_images=sum(not b for b in boxes.values()),
        num_crowds=len(content["annotations"]) - len(instances),
        per_class={name: count[name] for name in order},
        images_per_class={name: image_count[name] for name in order},
        areas=areas,
        per_image=np.array([len(b) for b in boxes.values()]),
        crowding=np.concatenate([largest_iou(b) for b in boxes.values()] or [np.zeros(0)]),
    )


def largest_iou(boxes: list) -> np.ndarray:
    """(N,) of N boxes (x, y, width, height): the IoU with the other box that covers it most."""
    if len(boxes) < 2:
        return np.zeros(len(boxes))
    x1, y1, w, h = np.array(boxes, dtype=float).T
    x2, y2 = x1 + w, y1 + h
    width = np.minimum.outer(x2, x2) - np.maximum.outer(x1, x1)
    height = np.minimum.outer(y2, y2) - np.maximum.outer(y1, y1)
    overlap = width.clip(0) * height.clip(0)
    iou = overlap / (np.add.outer(w * h, w * h) - overlap)
    np.fill_diagonal(iou, 0)
    return iou.max(1)


def format_stats(stats: DatasetStats) -> str:
    """A table of classes and some sentences."""
    total = len(stats.areas)
    small, medium, large = stats.small_medium_large
    width = max(map(len, (*stats.per_class, "class")))
    lines = [
        f"{stats.num_images} images ({stats.num_empty_images} without an instance), {total} "
        f"instances, {stats.num_crowds} crowd regions",
        f"{'class':{width}}  instances  images",
    ]
    for name, number in stats.per_class.items():
        lines.append(f"{name:{width}}  {number:9}  {stats.images_per_class[name]:6}")
    if total:
        lines += [
            f"sizes: {small} small (below 32 x 32), {medium} medium, {large} large (above 96 x 96);"
            f" median {np.sqrt(np.median(stats.areas)):.0f} px, square root of area",
            f"instances an image: median {np.median(stats.per_image):.0f}, most "
            f"{stats.per_image.max()}",
            f"crowding: {np.mean(stats.crowding > 0.5):.1%} of the boxes overlap another by IoU "
            "above 0.5 (NMS may lose them)",
        ]
    return "\n".join(lines)


def plot_stats(stats: DatasetStats, path: str | Path, title: str) -> None:
    """Save four plots as one PNG: classes, sizes, instances an image, overlap."""
    figure, axes = plt.subplots(2, 2, figsize=(12, 9), layout="constrained")
    figure.suptitle(title)
    classes, sizes, per_image, crowding = axes.flat
    most = sorted(stats.per_class.items(), key=lambda item: -item[1])[:_BARS]
    classes.barh([name for name, _ in most][::-1], [number for _, number in most][::-1])
    left_out = len(stats.per_class) - len(most)
    classes.set_title("instances per class" + (f" ({left_out} more)" if left_out else ""))
    classes.tick_params(axis="y", labelsize="small" if len(most) < 25 else "xx-small")
    sizes.hist(np.sqrt(stats.areas), bins=40)
    for limit in (SMALL, LARGE):
        sizes.axvline(limit**0.5, color="black", linestyle=":")
    sizes.set(title="size of instances (dotted: 32 and 96)", xlabel="square root of area, pixels")
    most_in_one = int(stats.per_image.max(initial=0))
    per_image.hist(stats.per_image, bins=np.arange(min(most_in_one, 60) + 2) - 0.5)
    per_image.set(title="instances in an image", xlabel="instances", ylabel="images")
    crowding.hist(stats.crowding, bins=np.linspace(0, 1, 21))
    crowding.set(title="crowding", xlabel="largest IoU with another box", ylabel="instances")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)
