"""Compares runs on one page: their last APs, their curves and the differences of their configs."""

from pathlib import Path

from detectron2.config import CfgNode

from ...config import config_leaves
from ..analysis import inference_folder, load_analysis
from ..precision_recall import METRICS
from . import figures
from .ap_tables import TASKS, cell, flatten, with_interval
from .build import figure, render
from .intervals import ap_intervals
from .metrics_log import evaluations, metric_prefix, read_metrics


def build_comparison(cfgs: list[CfgNode], file: str | Path) -> Path:
    """Write a page that compares runs.

    Args:
        cfgs: of two or more runs. The others are compared with the first.
        file: the page to write.

    Raises:
        ValueError: fewer than two runs.
    """
    if len(cfgs) < 2:
        raise ValueError(f"a comparison needs two runs or more, got {len(cfgs)}")
    names = short_names([cfg.OUTPUT_DIR for cfg in cfgs])
    logs = {n: read_metrics(Path(c.OUTPUT_DIR, "metrics.json")) for n, c in zip(names, cfgs)}
    page = render(
        "comparison.html.j2",
        runs=names,
        tables=_tables(cfgs),
        curves=[
            figure("Total loss", "", figures.draw(figures.plot_total_loss, logs)),
            figure("AP", "evaluations during training", figures.draw(figures.plot_ap, logs)),
        ],
        differences=config_differences(cfgs),
    )
    Path(file).write_text(page, encoding="utf-8")
    return Path(file)


def short_names(folders: list[str]) -> list[str]:
    """The shortest ends of paths that differ from each other."""
    parts = [Path(folder).resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{p[-1]} ({i})" for i, p in enumerate(parts, start=1)]  # the same folder twice


def last_results(cfg: CfgNode) -> dict[str, dict[str, float | None]]:
    """APs of a run's last evaluation, by dataset and by their names in metrics.json."""
    metrics = read_metrics(Path(cfg.OUTPUT_DIR, "metrics.json"))
    results = {}
    for name in cfg.DATASETS.TEST:
        logged = evaluations(metrics, metric_prefix(name, cfg.DATASETS.TEST))
        analysis = load_analysis(inference_folder(cfg, name))
        results[name] = flatten(analysis) if analysis else (logged[-1][1] if logged else {})
    return results


def _tables(cfgs: list[CfgNode]) -> list[dict]:
    """One table per dataset that any of the runs was evaluated on."""
    results = [last_results(cfg) for cfg in cfgs]
    tables = []
    for dataset in dict.fromkeys(name for run in results for name in run):
        values = [run.get(dataset, {}) for run in results]
        intervals = ap_intervals(cfgs, dataset)
        metrics = [f"{task}/{metric}" for task in TASKS for metric in METRICS]
        classes = [k for run in values for k in run if k.startswith(("bbox/AP-", "segm/AP-"))]
        rows = [
            {"name": _label(key), "cells": _row(key, values, intervals)}
            for key in dict.fromkeys((*metrics, *classes))
            if any(key in run for run in values)
        ]
        name = f"Accuracy on {dataset}"
        tables.append({"name": name, "rows": rows, "has_intervals": any(intervals)})
    return tables


def _row(key: str, values: list[dict], intervals: list[dict]) -> list[dict]:
    first, *others = (run.get(key) for run in values)
    cells = [cell(first), *(cell(value, first) for value in others)]
    return [with_interval(c, interval.get(key)) for c, interval in zip(cells, intervals)]


def _label(key: str) -> str:
    task, metric = key.split("/", 1)
    return f"{TASKS[task]} {metric.replace('AP-', 'AP, ')}"


def config_differences(cfgs: list[CfgNode]) -> list[dict]:
    """Rows of `key` and `of_runs` for the keys, except `OUTPUT_DIR`, whose values differ."""
    flat = [{key: str(value) for key, value in config_leaves(cfg)} for cfg in cfgs]
    keys = sorted({key for config in flat for key in config} - {"OUTPUT_DIR"})
    rows = [{"key": key, "of_runs": [config.get(key, "") for config in flat]} for key in keys]
    return [row for row in rows if len(set(row["of_runs"])) > 1]
