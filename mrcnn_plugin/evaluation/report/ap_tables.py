"""AP tables of a report: numbers as text, with the difference from the previous evaluation."""

import math

from ..precision_recall import METRICS

TASKS = {"bbox": "box", "segm": "mask"}


def flatten(analysis: dict) -> dict[str, float | None]:
    """The APs of an analysis by their names in metrics.json, such as "segm/AP50" and "segm/AP-cat".

    It also has AP50, AP75, ... per class ("segm/AP50-cat"), which metrics.json lacks.
    """
    flat = {}
    for task, table in analysis["ap"].items():
        flat.update({f"{task}/{metric}": value for metric, value in table["all"].items()})
        for name, row in table["classes"].items():
            flat.update({f"{task}/{metric}-{name}": value for metric, value in row.items()})
    return flat


def previous_of(
    current: dict[str, float | None], evaluations: list[tuple[int, dict]]
) -> tuple[int | None, dict]:
    """Iteration and values of the last logged evaluation that is not the current one."""
    before = list(evaluations)
    if before and _same(before[-1][1], current):
        before.pop()
    return before[-1] if before else (None, {})


def _same(logged: dict, current: dict) -> bool:
    names = [f"{task}/AP" for task in TASKS if f"{task}/AP" in logged]
    return all(
        number(current.get(name)) == number(logged[name])
        or math.isclose(number(current.get(name)) or 0, number(logged[name]) or 0, abs_tol=1e-6)
        for name in names
    )


def number(value: float | None) -> float | None:
    """Convert an undefined AP, which is NaN in detectron2 and -1 in COCO, to None."""
    return None if value is None or math.isnan(value) or value < 0 else float(value)


def with_interval(cell: dict[str, str], interval: dict[str, float] | None) -> dict[str, str]:
    """Add `interval`, the range of the difference as text, to a cell ("" without an interval).

    A difference whose range contains 0 may be chance: its `trend` becomes "same".
    """
    if interval is None:
        return {**cell, "interval": ""}
    lower, upper = interval["lower"], interval["upper"]
    text = f"{lower:+.1f} to {upper:+.1f}".replace("-", "\N{MINUS SIGN}")
    return {**cell, "interval": text, "trend": "same" if lower <= 0 <= upper else cell["trend"]}


def cell(value: float | None, previous: float | None = None) -> dict[str, str]:
    """`text`, `delta` (signed, "" without a previous value) and `trend` (up, down or same)."""
    value, previous = number(value), number(previous)
    if value is None:
        return {"text": "\N{EN DASH}", "delta": "", "trend": "same"}
    if previous is None:
        return {"text": f"{value:.1f}", "delta": "", "trend": "same"}
    difference = round(value - previous, 1)
    trend = "up" if difference > 0 else "down" if difference < 0 else "same"
    delta = f"{difference:+.1f}".replace("-", "\N{MINUS SIGN}") if difference else "±0"
    return {"text": f"{value:.1f}", "delta": delta, "trend": trend}


def overall_table(current: dict, previous: dict) -> list[dict]:
    """One row for boxes and one for masks, with `name` and `cells` in the order of `METRICS`."""
    return [
        {
            "name": label,
            "cells": [cell(current.get(f"{t}/{m}"), previous.get(f"{t}/{m}")) for m in METRICS],
        }
        for t, label in TASKS.items()
        if f"{t}/AP" in current
    ]


def class_table(current: dict, previous: dict, classes: list[str], main_task: str) -> list[dict]:
    """One row per class: `name`, and `cells` with box AP, mask AP and the main task's others."""
    tasks = [task for task in TASKS if f"{task}/AP" in current]
    columns = [(task, "AP") for task in tasks] + [(main_task, metric) for metric in METRICS[1:]]
    return [
        {
            "name": name,
            "cells": [
                cell(current.get(f"{t}/{m}-{name}"), previous.get(f"{t}/{m}-{name}"))
                for t, m in columns
            ],
        }
        for name in classes
    ]
