"""Pictures: ground truth beside prediction, and the curves of a training run, in one file."""

from pathlib import Path

import matplotlib
import numpy as np
from detectron2.data import Metadata
from detectron2.data import detection_utils as utils
from detectron2.structures import Instances
from detectron2.utils.visualizer import ColorMode, Visualizer
from matplotlib.figure import Figure

from .figures import plot_ap, plot_loss_parts, plot_total_loss
from .metrics_log import read_metrics


def draw_comparison(
    dataset_dict: dict, instances: Instances, metadata: Metadata, *, min_score=0.5, scale=1.0
) -> tuple[np.ndarray, np.ndarray]:
    """One photograph twice: with its ground truth and with the predictions, a colour per class.

    Args:
        dataset_dict: one image of a data set in detectron2's format, with `annotations`.
        instances: predictions in that image's pixels, on the CPU.
        metadata: class names of the data set.
        min_score: predictions below it are not drawn.
        scale: size of the drawing relative to the photograph.

    Returns:
        two (h, w, 3) uint8 RGB arrays: ground truth, prediction.
    """
    image = utils.read_image(dataset_dict["file_name"], format="RGB")
    classes = metadata.thing_classes
    palette = matplotlib.colormaps["tab10"].colors
    colors = [[int(255 * c) for c in palette[i % 10]] for i in range(len(classes))]
    colored = Metadata(thing_classes=classes, thing_colors=colors)

    def canvas():
        drawing = Visualizer(image, colored, scale=scale, instance_mode=ColorMode.SEGMENTATION)
        # Points before scaling; detectron2's choice cannot be read on enlarged small pictures.
        drawing._default_font_size = max(drawing._default_font_size, 18 / scale)
        return drawing

    truth = canvas().draw_dataset_dict(dataset_dict)
    prediction = canvas().draw_instance_predictions(instances[instances.scores >= min_score])
    return truth.get_image(), prediction.get_image()


def save_run_picture(
    path: str | Path,
    comparisons: list[tuple[np.ndarray, np.ndarray]],
    metrics_file: str | Path,
    title: str,
) -> None:
    """Save one picture: the pairs of `draw_comparison`, two pairs to a row, above the curves.

    Args:
        path: where to write the PNG.
        comparisons: (ground truth, prediction) pairs.
        metrics_file: `metrics.json` of the run.
        title: written on top.
    """
    rows = -(-len(comparisons) // 2)
    figure = Figure(figsize=(14, 3.6 * rows + 4.6), layout="constrained")
    figure.suptitle(title)
    photographs, curves = figure.subfigures(2, 1, height_ratios=[3.6 * rows, 4])
    axes = photographs.subplots(rows, 4, squeeze=False).reshape(-1, 2)
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
