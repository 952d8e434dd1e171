"""Draws ground truth next to prediction, and the curves of a training run."""

import math
from pathlib import Path

import matplotlib
import numpy as np
from detectron2.data import Metadata
from detectron2.data import detection_utils as utils
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.visualizer import Visualizer
from matplotlib.figure import Figure

from .figures import plot_ap, plot_loss_parts, plot_total_loss
from .metrics_log import read_metrics

_FONT_SIZE = 16  # points of a label in the drawn image, whatever its scale
_PADDING = 3  # pixels of the background around a label


def draw_comparison(
    dataset_dict: dict, instances: Instances, metadata: Metadata, *, min_score=0.5, scale=1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image twice, with its ground truth and with the predictions, in a color per class.

    Args:
        dataset_dict: one image of a dataset in detectron2's format, with `annotations`.
        instances: predictions in pixels of that image, on the CPU.
        metadata: has `thing_classes`.
        min_score: predictions below it are not drawn.
        scale: size of the drawing relative to the image.

    Returns:
        two (h, w, 3) uint8 RGB arrays, ground truth and prediction.
    """
    image = utils.read_image(dataset_dict["file_name"], format="RGB")
    names = metadata.thing_classes
    annotations = dataset_dict["annotations"]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    masks = [a.get("segmentation") for a in annotations]
    classes = [a["category_id"] for a in annotations]
    labels = [names[c] for c in classes]
    truth = _draw(image, boxes, masks if all(masks) else None, classes, labels, scale)

    kept = instances[instances.scores >= min_score]
    classes = kept.pred_classes.tolist()
    labels = [f"{names[c]} {100 * s:.0f}%" for c, s in zip(classes, kept.scores.tolist())]
    masks = list(kept.pred_masks.numpy()) if kept.has("pred_masks") else None
    prediction = _draw(image, kept.pred_boxes.tensor.tolist(), masks, classes, labels, scale)
    return truth, prediction


def _draw(image, boxes, masks, classes, labels, scale) -> np.ndarray:
    palette = matplotlib.colormaps["tab10"].colors
    colors = [palette[c % len(palette)] for c in classes]
    visualizer = Visualizer(image, scale=scale)
    if boxes:
        visualizer.overlay_instances(
            boxes=Boxes(np.array(boxes)), masks=masks or None, assigned_colors=colors
        )
    # Large boxes first, so that the labels of small ones stay readable.
    for index in sorted(range(len(boxes)), key=lambda i: -_area(boxes[i])):
        x, y = boxes[index][:2]
        visualizer.draw_text(
            labels[index],
            (x, y),
            font_size=_FONT_SIZE / scale,
            color=tuple(0.4 + 0.6 * c for c in colors[index]),  # lighter than the mask
            horizontal_alignment="left",
        )
        _move_inside(visualizer.output)
    return visualizer.output.get_image()


def _area(box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _move_inside(output) -> None:
    """Move the last text of a drawing so that the edges do not cut it off."""
    text = output.ax.texts[-1]
    extent = text.get_window_extent(output.canvas.get_renderer()).padded(_PADDING)
    (x0, y0), (x1, y1) = output.ax.transData.inverted().transform(extent.get_points())
    (x0, x1), (y0, y1) = sorted((x0, x1)), sorted((y0, y1))
    x, y = text.get_position()
    right, bottom = min(0, output.width - x1), min(0, output.height - y1)
    text.set_position((x + max(right, -x0), y + max(bottom, -y0)))


def save_run_image(
    path: str | Path,
    comparisons: list[tuple[np.ndarray, np.ndarray]],
    metrics_file: str | Path,
    title: str,
) -> None:
    """Save one image: the pairs of `draw_comparison`, two pairs to a row, above the curves.

    Args:
        path: the PNG file.
        comparisons: (ground truth, prediction) pairs.
        metrics_file: `metrics.json` of the run.
        title: written on top.
    """
    rows = math.ceil(len(comparisons) / 2)
    figure = Figure(figsize=(14, 3.6 * rows + 4.6), layout="constrained")
    figure.suptitle(title)
    images, curves = figure.subfigures(2, 1, height_ratios=[3.6 * rows, 4])
    axes = images.subplots(rows, 4, squeeze=False).reshape(-1, 2)
    for (left, right), (truth, prediction) in zip(axes, comparisons):
        left.imshow(truth)
        right.imshow(prediction)
        left.set_title("ground truth", fontsize="small")
        right.set_title("prediction", fontsize="small")
    for ax in axes.flat:
        ax.axis("off")
    metrics = read_metrics(metrics_file)
    total_axes, parts_axes, ap_axes = curves.subplots(1, 3)
    plot_total_loss(total_axes, {"": metrics})
    plot_loss_parts(parts_axes, metrics)
    plot_ap(ap_axes, {"": metrics})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
