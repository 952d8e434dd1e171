"""The `metrics.json` of a run, which also holds the runs before it in the same directory."""

import json
from collections.abc import Sequence
from pathlib import Path


def read_metrics(file: str | Path) -> dict[int, dict[str, float]]:
    """Scalars by iteration, in order; `{}` where there is no file.

    detectron2 appends. Where training goes back to an earlier iteration, by a resume or a new run,
    what came later before is dropped.
    """
    by_iteration: dict[int, dict[str, float]] = {}
    last = -1  # iteration of the last line of training; evaluations may be written late
    if Path(file).exists():
        for line in Path(file).read_text().splitlines():
            values = json.loads(line)
            iteration = values.pop("iteration")
            if "total_loss" in values:
                if iteration < last:
                    by_iteration = {i: v for i, v in by_iteration.items() if i < iteration}
                last = iteration
            by_iteration.setdefault(iteration, {}).update(values)
    return dict(sorted(by_iteration.items()))


def series(metrics: dict[int, dict[str, float]], name: str) -> tuple[list[int], list[float]]:
    """Iterations and values of one scalar."""
    points = [(i, values[name]) for i, values in metrics.items() if name in values]
    return [i for i, _ in points], [value for _, value in points]


def metric_prefix(dataset_name: str, dataset_names: Sequence[str]) -> str:
    """What detectron2 puts before a metric's name: the data set, where there are several."""
    return f"{dataset_name}/" if len(dataset_names) > 1 else ""


def evaluations(
    metrics: dict[int, dict[str, float]], prefix: str = ""
) -> list[tuple[int, dict[str, float]]]:
    """The iterations that have APs, with those values whose names have the prefix, without it."""
    found = []
    for iteration, values in metrics.items():
        own = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
        if any(name.endswith("/AP") for name in own):
            found.append((iteration, own))
    return found
