"""Figures of a report, as SVG in `data:` addresses."""

import base64
import io

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from .metrics_log import series

COLORS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
_MUTED = "#6b7280"
_MAX_CLASSES = 30  # in the plot of classes
_STYLE = {
    "font.size": 10,
    "axes.edgecolor": "#d1d5db",
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=COLORS),
    "grid.color": "#eef0f3",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "text.parse_math": False,  # names of classes and runs are text, whatever they contain
    "svg.hashsalt": "mrcnn_plugin",  # makes equal figures equal files
}


def to_uri(data: bytes, kind: str) -> str:
    """Encode bytes as a `data:` address; `kind` is "svg+xml", "jpeg" or "png"."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def draw(plot, *args, height: float = 3.5) -> str:
    """Call `plot(axes, *args)` on a new 5.4 x `height` inch figure; return a `data:` address."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.4, height), layout="constrained")
        plot(figure.subplots(), *args)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return to_uri(file.getvalue(), "svg+xml")


def _legend(axes, ncols: int = 2):
    """Place the legend above the axes, where it hides nothing."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=ncols, borderaxespad=0.2)


def plot_total_loss(axes, runs: dict[str, dict]) -> None:
    """Plot training and validation loss, with one color per run.

    Args:
        runs: `read_metrics` of each run by name. The legend omits the name of a single run.
    """
    for color, (name, metrics) in zip(COLORS * len(runs), runs.items()):
        label = f"{name}: " if len(runs) > 1 else ""
        for key, kind, style in (
            ("total_loss", "training", {"alpha": 0.9}),
            ("validation/total_loss", "validation", {"linestyle": "--", "marker": "o", "ms": 4}),
        ):
            iterations, values = series(metrics, key)
            if iterations:
                axes.plot(iterations, values, color=color, label=label + kind, **style)
    axes.set(xlabel="iteration", ylabel="total loss")
    _log_scale(axes)
    _legend(axes)


def plot_loss_parts(axes, metrics: dict) -> None:
    """Plot every part of the loss, dashed with points for the held-out images."""
    names = sorted({n for values in metrics.values() for n in values if n.startswith("loss_")})
    for color, name in zip(COLORS * len(names), names):
        axes.plot(*series(metrics, name), color=color, label=name, linewidth=1.3)
        validation = series(metrics, f"validation/{name}")
        axes.plot(*validation, color=color, linestyle="--", marker="o", ms=3, linewidth=1)
    axes.set(xlabel="iteration", ylabel="loss", yscale="log")
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    _legend(axes, ncols=3)


def _log_scale(axes) -> None:
    """Make the y axis logarithmic, with tick labels even if it spans less than a decade."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())


def plot_learning_rate(axes, metrics: dict) -> None:
    axes.plot(*series(metrics, "lr"), color=COLORS[4])
    axes.set(xlabel="iteration", ylabel="learning rate")
    axes.set_ylim(bottom=0)


def plot_ap(axes, runs: dict[str, dict], prefix: str = "") -> None:
    """Plot box and mask AP per evaluation, with one color per run, or per task for one run."""
    for run_color, (name, metrics) in zip(COLORS * len(runs), runs.items()):
        for task, color, style in (("bbox", COLORS[0], "--"), ("segm", COLORS[2], "-")):
            iterations, values = series(metrics, f"{prefix}{task}/AP")
            if iterations:
                label = {"bbox": "box AP", "segm": "mask AP"}[task]
                if len(runs) > 1:
                    label, color = f"{name}: {label}", run_color
                axes.plot(iterations, values, style, marker="o", ms=4, color=color, label=label)
    axes.set(xlabel="iteration", ylabel="AP")
    axes.set_ylim(bottom=0)
    _legend(axes)


def plot_pr(axes, curves: dict) -> None:
    """Plot precision over recall, one curve per IoU threshold (`pr_curves`)."""
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, max(len(curves["iou"]), 1)))
    for iou, precision, color in zip(curves["iou"], curves["precision"], shades):
        label = f"{iou:.2f}: {100 * np.mean(precision):.1f}"
        axes.plot(curves["recall"], precision, color=color, label=label, linewidth=1.3)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(title="AP at", alignment="left", loc="upper left", bbox_to_anchor=(1, 1))


def plot_confusion(axes, matrix: list[list[int]], classes: list[str]) -> None:
    """Plot a confusion matrix with true classes as rows; the shade is the share of the row."""
    counts = np.asarray(matrix, dtype=float)
    names = [*classes, "background"]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    axes.set(xlabel="predicted", ylabel="true")
    if len(names) > 25:
        return
    size = 9 if len(names) <= 10 else 6
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    for (row, column), count in np.ndenumerate(counts):
        if row == column == len(classes):
            continue  # background predicted as background is not counted
        color = "white" if shares[row, column] > 0.5 else "#1f2937"
        axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=color, fontsize=size)


def plot_calibration(axes, bins: dict) -> None:
    """Plot the share of correct detections over the mean score; areas grow with the count."""
    count = np.asarray(bins["count"], dtype=float)
    filled = count > 0
    score = np.array(bins["score"], dtype=float)[filled]
    precision = np.array(bins["precision"], dtype=float)[filled]
    axes.plot([0, 1], [0, 1], color="#9ca3af", linestyle=":", label="perfect calibration")
    axes.plot(score, precision, color=COLORS[0], alpha=0.6)
    area = 12 + 200 * count[filled] / max(count.sum(), 1)
    axes.scatter(score, precision, s=area, color=COLORS[0], zorder=3)
    axes.set(xlabel="score", ylabel="correct at IoU 0.5", xlim=(0, 1.02), ylim=(0, 1.02))
    _legend(axes)


def plot_f1(axes, f1: dict) -> None:
    """Plot the mean F1 over the score threshold, and mark its best value."""
    axes.plot(f1["score"], f1["f1"], color=COLORS[0], label="mean over classes")
    best = int(np.argmax(f1["f1"]))
    axes.scatter(f1["score"][best], f1["f1"][best], color=COLORS[1], zorder=3, label="best")
    axes.set(xlabel="score threshold", ylabel="F1 at IoU 0.5", xlim=(0, 1.02), ylim=(0, 1.02))
    _legend(axes)


def plot_errors(axes, errors: dict, labels: dict[str, str]) -> None:
    """Plot the AP50 that each kind of error costs, with the number of errors (`error_kinds`)."""
    positions = np.arange(len(errors["kinds"]))
    bars = axes.barh(positions, errors["ap"], 0.65, color=COLORS[0])
    counts = [f"{ap:.1f}  ({n})" for ap, n in zip(errors["ap"], errors["count"])]
    axes.bar_label(bars, counts, padding=4, color=_MUTED, fontsize=8.5)
    axes.set_yticks(positions, [labels[kind] for kind in errors["kinds"]])
    axes.invert_yaxis()
    axes.set(xlabel="AP50 points lost", xlim=(0, max(1.0, 1.3 * max(errors["ap"]))))
    axes.grid(axis="y", visible=False)


def plot_classes(axes, statistics: dict[str, dict]) -> None:
    """Plot instances per class in percent of the dataset, the most frequent class first."""
    first = next(iter(statistics.values()))["classes"]
    names = sorted(first, key=lambda name: -first[name])[:_MAX_CLASSES]
    height = 0.8 / len(statistics)
    for position, (dataset, numbers) in enumerate(statistics.items()):
        total = max(numbers["instances"], 1)
        shares = [100 * numbers["classes"].get(name, 0) / total for name in names]
        axes.barh(np.arange(len(names)) + position * height, shares, height, label=dataset)
    middle = 0.4 - height / 2
    axes.set_yticks(np.arange(len(names)) + middle, names, fontsize=9 if len(names) < 15 else 7)
    axes.invert_yaxis()
    axes.set(xlabel="% of the dataset's instances")
    axes.grid(axis="y", visible=False)
    _legend(axes)


def plot_per_image(axes, statistics: dict[str, dict]) -> None:
    """Plot the distribution of the number of instances per image."""
    for dataset, numbers in statistics.items():
        counts = {int(n): images for n, images in numbers["per_image"].items()}
        shares = [100 * images / max(numbers["images"], 1) for images in counts.values()]
        axes.plot([*counts], shares, marker="o", ms=4, label=dataset)
    axes.set(xlabel="instances per image", ylabel="% of images")
    axes.set_ylim(bottom=0)
    _legend(axes)
