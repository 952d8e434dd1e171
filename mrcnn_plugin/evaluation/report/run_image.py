"""One image that shows a run: ground truth next to predictions, above the training curves."""

import io
import math
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from matplotlib.figure import Figure
from PIL import Image

from ...errors import RunError
from ..analysis import RESULTS_FILE, inference_folder, load_analysis
from .draw import draw_comparison
from .figures import plot_ap, plot_loss_parts, plot_total_loss
from .images import read_predictions
from .metrics_log import read_metrics, series
from .run_folder import is_in_image_root

_WIDTH = 320  # pixels of each drawing
_NUM_COLORS = 256  # of the PNG; keeps eight images below 300 kB


def draw_run(cfg: CfgNode, path: str | Path, *, num_images: int = 8) -> str:
    """Draw the first images of a run's first test dataset and its curves, without the model.

    Args:
        cfg: of the run.
        path: the PNG to write.
        num_images: drawn at most.

    Returns:
        the number of images, the APs and the number of iterations in one line, as drawn on top.

    Raises:
        RunError: the run has no evaluated dataset, or its images are not available.
    """
    name = next(iter(cfg.DATASETS.TEST), None)
    folder = inference_folder(cfg, name) if name else Path(cfg.OUTPUT_DIR)
    analysis = load_analysis(folder)
    if analysis is None or not (folder / RESULTS_FILE).exists():
        raise RunError(
            f"{folder} has no predictions of an evaluation with AP. Evaluate the run first: mrcnn "
            f"train --config-file {cfg.OUTPUT_DIR}/config.yaml --eval-only --resume"
        )
    if name not in DatasetCatalog:
        raise RunError(
            f"The images of dataset '{name}' are needed for --image, but the dataset is not "
            "available. Set DETECTRON2_DATASETS as in training."
        )
    dicts = DatasetCatalog.get(name)
    drawn = dicts[:num_images]
    outside = [d["file_name"] for d in drawn if not is_in_image_root(d, name)]
    if outside:
        raise RunError(f"{outside[0]} is no file in the image folder of the dataset '{name}'")
    predictions = read_predictions(folder, name, drawn)
    comparisons = [
        draw_comparison(
            d, predictions[d["image_id"]], MetadataCatalog.get(name), scale=_WIDTH / d["width"]
        )
        for d in drawn
    ]
    metrics = read_metrics(Path(cfg.OUTPUT_DIR, "metrics.json"))
    title = _summary(len(dicts), analysis, metrics)
    save_run_image(path, comparisons, metrics, title)
    return title


def _summary(num_images: int, analysis: dict, metrics: dict) -> str:
    aps = {task: table["all"]["AP"] for task, table in analysis["ap"].items()}
    names = {"bbox": "box AP", "segm": "segm AP"}
    parts = [f"{names[t]} {'none' if ap is None else f'{ap:.1f}'}" for t, ap in aps.items()]
    last = max(series(metrics, "total_loss")[0], default=None)
    after = "" if last is None else f", after {last + 1} iterations"
    return f"{num_images} held-out images: {', '.join(parts)}{after}"


def save_run_image(
    path: str | Path,
    comparisons: list[tuple[np.ndarray, np.ndarray]],
    metrics: dict[int, dict[str, float]],
    title: str,
) -> None:
    """Save a PNG with two pairs of `draw_comparison` per row, above the curves.

    Args:
        path: where to write the PNG.
        comparisons: (ground truth, prediction) pairs.
        metrics: `read_metrics` of the run.
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
    total_axes, parts_axes, ap_axes = curves.subplots(1, 3)
    plot_total_loss(total_axes, {"": metrics})
    plot_loss_parts(parts_axes, metrics)
    plot_ap(ap_axes, {"": metrics})
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image = Image.open(buffer).convert("RGB")
    # This method keeps the colors of thin curves, which the default one merges.
    image = image.quantize(_NUM_COLORS, method=Image.Quantize.MAXCOVERAGE)
    image.save(path, format="PNG", optimize=True)
