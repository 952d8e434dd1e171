"""Reads `metrics.json` of a run, which also holds earlier runs in the same directory."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)


def read_metrics(file: str | Path) -> dict[int, dict[str, float]]:
    """Read scalars by iteration, in order. Returns `{}` if there is no file.

    detectron2 appends to the file. If training goes back to an earlier iteration, because of a
    resume or a new run, the later values of the earlier training are dropped. Lines that are not
    JSON, as a full disk or a power cut can write them, are skipped with a warning.
    """
    by_iteration: dict[int, dict[str, float]] = {}
    last = -1  # iteration of the last line of training; evaluations may be written late
    for values in _read_lines(Path(file)):
        iteration = values.pop("iteration")
        if "total_loss" in values:
            if iteration < last:
                by_iteration = {i: v for i, v in by_iteration.items() if i < iteration}
            last = iteration
        by_iteration.setdefault(iteration, {}).update(values)
    return dict(sorted(by_iteration.items()))


def _read_lines(file: Path) -> list[dict]:
    """The lines that hold scalars of an iteration."""
    if not file.exists():
        return []
    lines = file.read_text(errors="replace").splitlines()
    found = [values for values in map(_parse, lines) if values is not None]
    if skipped := len(lines) - len(found):
        logger.warning(f"{file}: {skipped} of {len(lines)} lines are damaged and were skipped")
    return found


def _parse(line: str) -> dict | None:
    """The scalars of a line as floats, and `iteration` as an int. Other values are dropped."""
    try:
        values = json.loads(line)
        iteration = values["iteration"]
        if type(iteration) is not int or not 0 <= iteration < 2**53:
            return None
        scalars = {k: float(v) for k, v in values.items() if isinstance(v, (int, float))}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return {**scalars, "iteration": iteration}


def series(metrics: dict[int, dict[str, float]], name: str) -> tuple[list[int], list[float]]:
    """Iterations and values of one scalar."""
    points = [(i, values[name]) for i, values in metrics.items() if name in values]
    return [i for i, _ in points], [value for _, value in points]


def metric_prefix(dataset_name: str, dataset_names: Sequence[str]) -> str:
    """The prefix of a metric's name, which is the dataset's name if there are several datasets."""
    return f"{dataset_name}/" if len(dataset_names) > 1 else ""


def evaluations(
    metrics: dict[int, dict[str, float]], prefix: str = ""
) -> list[tuple[int, dict[str, float]]]:
    """The iterations with APs, and their values whose names have the prefix, without the prefix."""
    found = []
    for iteration, values in metrics.items():
        own = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
        if any(name.endswith("/AP") for name in own):
            found.append((iteration, own))
    return found
