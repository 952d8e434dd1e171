"""Drawings of an image with its ground truth and with the predictions for it."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from detectron2.data import Metadata
from detectron2.data import detection_utils as utils
from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import VisImage, Visualizer

Color = tuple[float, float, float]  # RGB in [0, 1]


def draw_comparison(
    dataset_dict: dict, instances: Instances, metadata: Metadata, *, min_score=0.5, scale=1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image twice: with its ground truth and with the predictions.

    A class has the same color in both.

    Args:
        dataset_dict: an image in detectron2's dataset format, with `annotations`.
        instances: predictions in the pixels of that image, on the CPU.
        metadata: of the dataset, with `thing_classes`.
        min_score: predictions with a lower score are not drawn.
        scale: size of the drawing relative to the image.

    Returns:
        two (h, w, 3) uint8 RGB arrays, ground truth and prediction.

    Raises:
        ValueError: the image has another size than `dataset_dict` has.
    """
    image = utils.read_image(dataset_dict["file_name"], format="RGB")
    utils.check_image_size(dataset_dict, image)
    names, colors = metadata.thing_classes, class_colors(metadata)

    truth = dataset_dict["annotations"]
    classes = [a["category_id"] for a in truth]
    truth_image = draw_instances(
        image,
        [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in truth],
        masks=[a["segmentation"] for a in truth] if all("segmentation" in a for a in truth) else (),
        labels=[names[a["category_id"]] + " (crowd)" * bool(a.get("iscrowd")) for a in truth],
        colors=[colors[c] for c in classes],
        scale=scale,
    )

    drawn = instances[instances.scores >= min_score]
    classes = drawn.pred_classes.tolist()
    prediction_image = draw_instances(
        image,
        drawn.pred_boxes.tensor.tolist(),
        masks=drawn.pred_masks.numpy() if drawn.has("pred_masks") else (),
        labels=[f"{names[c]} {s:.0%}" for c, s in zip(classes, drawn.scores.tolist())],
        colors=[colors[c] for c in classes],
        scale=scale,
    )
    return truth_image, prediction_image


def class_colors(metadata: Metadata) -> list[Color]:
    """A color per class: `thing_colors` of the dataset, or else ten colors in turn."""
    if metadata.get("thing_colors"):
        return [tuple(c / 255 for c in color) for color in metadata.thing_colors]
    palette = matplotlib.colormaps["tab10"].colors
    return [palette[i % len(palette)] for i in range(len(metadata.thing_classes))]


def draw_instances(
    image: np.ndarray,
    boxes: Sequence[Sequence[float]],
    *,
    masks: Sequence,
    labels: list[str],
    colors: list[Color],
    scale: float,
) -> np.ndarray:
    """Draw boxes, masks and labels, and keep every label inside the image.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: N boxes x1, y1, x2, y2 in pixels.
        masks: N masks in a format that detectron2's `Visualizer` accepts; may be empty.
        labels, colors: N of each.
        scale: size of the result relative to the image.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 4)
    visualizer = Visualizer(image, scale=scale)
    canvas = visualizer.overlay_instances(
        boxes=boxes, masks=masks if len(masks) else None, assigned_colors=colors, alpha=0.6
    )
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for index in np.argsort(-areas):  # small objects on top, as detectron2 draws masks
        _draw_label(canvas, labels[index], boxes[index, :2], colors[index])
    return canvas.get_image()


def _draw_label(canvas: VisImage, label: str, corner: np.ndarray, color: Color) -> None:
    """Draw a label at the top left corner of a box, moved where it would leave the image."""
    dark = np.dot(color, (0.299, 0.587, 0.114)) < 0.6  # luma of ITU-R BT.601
    text = canvas.ax.text(
        *corner,
        label,
        color="white" if dark else "black",
        fontsize=max(8.0, 0.018 * canvas.width * canvas.scale),
        verticalalignment="top",
        bbox={"facecolor": color, "edgecolor": "none", "alpha": 0.85, "pad": 1.0},
        zorder=10,
    )
    margin = 2.0  # display pixels for the padding
    extent = text.get_window_extent(canvas.canvas.get_renderer())  # display pixels, y upwards
    width, height = canvas.width * canvas.scale, canvas.height * canvas.scale
    x = min(max(extent.x0, margin), max(width - margin - extent.width, margin))
    top = max(min(extent.y1, height - margin), min(extent.height + margin, height - margin))
    moved = extent.translated(x - extent.x0, top - extent.y1)
    text.set_position(canvas.ax.transData.inverted().transform((moved.x0, moved.y1)))
