"""Builds `report.html`, one file about a run that needs neither a network nor scripts."""

from collections.abc import Sequence
from pathlib import Path

import jinja2
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ..analysis import inference_folder, load_analysis
from ..diagnosis import ERRORS
from ..precision_recall import METRICS
from . import figures
from .ap_tables import TASKS, cell, class_table, flatten, overall_table, previous_of
from .images import image_groups
from .label_errors import label_error_images
from .metrics_log import evaluations, metric_prefix, read_metrics, series
from .run_info import read_run_info, statistics_of

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **context) -> str:
    """Render one of `templates/`. All values are escaped; an unknown name raises."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**context)


def build_report(cfg: CfgNode) -> Path:
    """Write `OUTPUT_DIR/report.html` from the files of a run in `OUTPUT_DIR`.

    The model is not needed. Images are drawn from the test datasets that are registered. Parts
    whose files do not exist are omitted.

    Args:
        cfg: of the run.

    Returns:
        the path of the report.
    """
    folder = Path(cfg.OUTPUT_DIR)
    metrics, info = read_metrics(folder / "metrics.json"), read_run_info(folder)
    statistics = statistics_of(cfg)
    page = render(
        "report.html.j2",
        title=folder.resolve().name,
        iteration=max(series(metrics, "total_loss")[0], default=None),
        max_iter=cfg.SOLVER.MAX_ITER,
        info=info,
        config=cfg.dump(),
        metric_names=METRICS,
        datasets=[_dataset(cfg, name, metrics) for name in cfg.DATASETS.TEST],
        curves=_training_figures(metrics, cfg.DATASETS.TEST),
        statistics=statistics,
        data_figures=_data_figures(statistics),
    )
    file = folder / "report.html"
    file.write_text(page, encoding="utf-8")
    return file


def _dataset(cfg: CfgNode, name: str, metrics: dict) -> dict:
    """Everything that the page shows about one test dataset."""
    logged = evaluations(metrics, metric_prefix(name, cfg.DATASETS.TEST))
    folder = inference_folder(cfg, name)
    analysis = load_analysis(folder)
    current = flatten(analysis) if analysis else (logged[-1][1] if logged else {})
    before, previous = previous_of(current, logged)
    main = "segm" if "segm/AP" in current else "bbox"
    dicts = DatasetCatalog.get(name) if analysis and name in DatasetCatalog else []
    classes = analysis["classes"] if analysis else _classes_in(current)
    return {
        "name": name,
        "previous": before,
        "tiles": _tiles(current, previous),
        "overall": overall_table(current, previous),
        "classes": class_table(current, previous, classes, main) if len(classes) > 1 else [],
        "class_columns": [f"{TASKS[t]} AP" for t in TASKS if f"{t}/AP" in current],
        "main": TASKS[main],
        "figures": _analysis_figures(analysis) if analysis else [],
        "groups": image_groups(folder, name, dicts, analysis) if dicts else [],
        "label_errors": label_error_images(name, dicts, analysis) if dicts else [],
    }


def _classes_in(current: dict) -> list[str]:
    return [name.removeprefix("bbox/AP-") for name in current if name.startswith("bbox/AP-")]


def _tiles(current: dict, previous: dict) -> list[dict]:
    return [
        {"label": f"{label} {metric}", **cell(current[key], previous.get(key))}
        for task, label in reversed(TASKS.items())
        for metric in ("AP", "AP50")
        if (key := f"{task}/{metric}") in current
    ]


def figure(title: str, caption: str, uri: str) -> dict:
    return {"title": title, "caption": caption, "uri": uri}


def _training_figures(metrics: dict, datasets: Sequence[str]) -> list[dict]:
    if not series(metrics, "total_loss")[0]:
        return []
    draw, one = figures.draw, {"": metrics}
    found = [
        figure("Total loss", "median of 20 iterations", draw(figures.plot_total_loss, one)),
        figure(
            "Parts of the loss",
            "solid: training; dashed with points: held-out images (TEST.VAL_LOSS)",
            draw(figures.plot_loss_parts, metrics),
        ),
        figure("Learning rate", "", draw(figures.plot_learning_rate, metrics)),
    ]
    for prefix in dict.fromkeys(metric_prefix(name, datasets) for name in datasets):
        if series(metrics, f"{prefix}bbox/AP")[0]:
            title = f"AP {prefix.rstrip('/')}".strip()
            found.append(figure(title, "", draw(figures.plot_ap, one, prefix)))
    return found


def _analysis_figures(analysis: dict) -> list[dict]:
    task = TASKS[analysis["main_task"]]
    found = [
        figure(
            f"Precision and recall, {TASKS[t]}",
            "mean over classes with ground truth; numbers are the AP at each IoU",
            figures.draw(figures.plot_pr, curves),
        )
        for t, curves in analysis["pr"].items()
        if curves["iou"]
    ]
    classes = analysis["classes"]
    found.append(
        figure(
            f"Confusion, {task}",
            "counts at score >= 0.5 and IoU >= 0.5; the shade is the share of the row",
            figures.draw(figures.plot_confusion, analysis["confusion"], classes, height=4.4),
        )
    )
    bins = analysis["calibration"]
    found.append(
        figure(
            f"Score calibration, {task}",
            f"expected calibration error {bins['error']:.3f} over {sum(bins['count'])} detections",
            figures.draw(figures.plot_calibration, bins, height=4.4),
        )
    )
    errors = analysis.get("errors")  # older runs have none, nor F1
    if errors:
        found.append(
            figure(
                f"Kinds of errors, {task}",
                "points of AP50 to gain if only this kind of error were repaired, as TIDE defines "
                "them; in parentheses the number of errors at any score",
                figures.draw(figures.plot_errors, errors, ERRORS, height=4.4),
            )
        )
    f1 = analysis.get("f1")
    if f1 and f1["f1"]:
        found.append(
            figure(
                f"Score threshold, {task}",
                "the threshold of best F1 of each class is saved in the model files",
                figures.draw(figures.plot_f1, f1, height=4.4),
            )
        )
    return found


def _data_figures(statistics: dict) -> list[dict]:
    if not any(numbers["classes"] for numbers in statistics.values()):
        return []
    return [
        figure("Classes", "", figures.draw(figures.plot_classes, statistics)),
        figure("Instances per image", "", figures.draw(figures.plot_per_image, statistics)),
    ]
