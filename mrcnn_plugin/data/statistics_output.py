"""The statistics of a dataset as text and as plots."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .statistics import LARGE, SMALL, DatasetStatistics

_BARS = 40  # classes in the plot; the text has all


def format_statistics(statistics: DatasetStatistics) -> str:
    """Return a table of the classes and lines about sizes and overlap."""
    per_image, areas = statistics.per_image, statistics.areas
    small, medium, large = statistics.sizes.values()
    width = max(map(len, (*statistics.per_class, "class")))
    lines = [
        f"{len(per_image)} images ({(per_image == 0).sum()} without an instance), {len(areas)} "
        f"instances, {statistics.num_crowds} crowd regions",
        f"{'class':{width}}  instances  images",
    ]
    for name, number in statistics.per_class.items():
        lines.append(f"{name:{width}}  {number:9}  {statistics.images_per_class[name]:6}")
    if len(areas):
        lines += [
            f"sizes: {small} small (below 32 x 32), {medium} medium, {large} large (above 96 x 96);"
            f" median {np.sqrt(np.median(areas)):.0f} px, square root of area",
            f"instances per image: median {np.median(per_image):.0f}, most {per_image.max()}",
            f"crowding: {np.mean(statistics.crowding > 0.5):.1%} of the boxes overlap another by "
            "IoU above 0.5 (NMS may lose them)",
        ]
    return "\n".join(lines)


def plot_statistics(statistics: DatasetStatistics, path: str | Path, title: str) -> None:
    """Save four plots as one PNG: classes, sizes, instances per image, overlap."""
    figure = Figure(figsize=(12, 9), layout="constrained")
    figure.suptitle(title)
    classes, sizes, per_image, crowding = figure.subplots(2, 2).flat
    most = sorted(statistics.per_class.items(), key=lambda item: -item[1])[:_BARS]
    classes.barh([name for name, _ in most][::-1], [number for _, number in most][::-1])
    hidden = len(statistics.per_class) - len(most)
    classes.set_title("instances per class" + (f" ({hidden} more)" if hidden else ""))
    classes.tick_params(axis="y", labelsize="small" if len(most) < 25 else "xx-small")
    sizes.hist(np.sqrt(statistics.areas), bins=40)
    for limit in (SMALL, LARGE):
        sizes.axvline(limit**0.5, color="black", linestyle=":")
    sizes.set(title="size of instances (dotted: 32 and 96)", xlabel="square root of area, pixels")
    most_in_one = int(statistics.per_image.max(initial=0))
    per_image.hist(statistics.per_image, bins=np.arange(min(most_in_one, 60) + 2) - 0.5)
    per_image.set(title="instances per image", xlabel="instances", ylabel="images")
    crowding.hist(statistics.crowding, bins=np.linspace(0, 1, 21))
    crowding.set(title="crowding", xlabel="largest IoU with another box", ylabel="instances")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
