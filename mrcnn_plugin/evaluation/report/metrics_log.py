"""The `metrics.json` of a run, which also has the earlier runs in the same directory."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)


def read_metrics(file: str | Path) -> dict[int, dict[str, float]]:
    """Scalars by iteration, in order; `{}` if there is no file.

    detectron2 appends to the file. If training goes back to an earlier iteration, in a resumed or a
    new run, the later lines before that are dropped. Lines that a full disk or a power failure has
    cut off are skipped and counted in a warning.
    """
    by_iteration: dict[int, dict[str, float]] = {}
    last = -1  # iteration of the last line of training; evaluations may be written late
    num_broken = 0
    if Path(file).exists():
        for line in Path(file).read_text().splitlines():
            try:
                values = json.loads(line)
                iteration = values.pop("iteration")
            except (ValueError, KeyError, AttributeError, TypeError):
                num_broken += 1
                continue
            if "total_loss" in values:
                if iteration < last:
                    by_iteration = {i: v for i, v in by_iteration.items() if i < iteration}
                last = iteration
            by_iteration.setdefault(iteration, {}).update(values)
    if num_broken:
        logger.warning(f"{file}: {num_broken} lines are no JSON objects and are skipped")
    return dict(sorted(by_iteration.items()))


def series(metrics: dict[int, dict[str, float]], name: str) -> tuple[list[int], list[float]]:
    """Iterations and values of one scalar."""
    points = [(i, values[name]) for i, values in metrics.items() if name in values]
    return [i for i, _ in points], [value for _, value in points]


def metric_prefix(dataset_name: str, dataset_names: Sequence[str]) -> str:
    """The prefix of a metric's name in detectron2: the dataset, if there are several."""
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
