"""Compares the time of two implementations in one process and prints it as Markdown."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

HEADER = "| case | {} ms | {} ms | ratio | quartiles |\n|---|---|---|---|---|"
SHORT = 0.02  # seconds: a call that takes less is timed several times per repeat


class Comparison(NamedTuple):
    """Times in seconds, one per repeat. Element i of both lists was measured back to back."""

    reference: list[float]
    ours: list[float]

    def row(self, name: str) -> str:
        """The medians of both, and the median and the quartiles of the ratio per repeat."""
        ratios = [reference / ours for reference, ours in zip(self.reference, self.ours)]
        first, _, third = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        reference, ours = (statistics.median(times) * 1e3 for times in self)
        ratio = statistics.median(ratios)
        return f"| {name} | {reference:.2f} | {ours:.2f} | {ratio:.2f} | {first:.2f}-{third:.2f} |"


def seconds(call: Callable[[], object], device: str) -> float:
    """The wall time of one call, which has to allocate its result.

    The result is freed after the clock has stopped and before the next call starts, so that no
    call pays for the result of another one.
    """
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    result = call()
    synchronize()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def compare(
    reference: Callable[[], object], ours: Callable[[], object], *, repeats: int, device: str
) -> Comparison:
    """Time both calls alternately, so that a change of the machine's load affects both.

    The first call of each is not counted. The order within a repeat alternates.
    """
    calls = (reference, ours)
    counts = [max(1, min(20, int(SHORT / seconds(call, device)))) for call in calls]
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats):
        for i in (0, 1) if repeat % 2 == 0 else (1, 0):
            several = [seconds(calls[i], device) for _ in range(counts[i])]
            times[i].append(statistics.median(several))
    return Comparison(*times)


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.split(": ")[1] for line in lines if line.startswith("model name"))
    return next(names, "unknown processor")


def machine(device: str) -> str:
    """Return one line that describes the processor or GPU, its load and the version of torch."""
    if device == "cuda":
        name = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    else:
        load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
        name = f"{cpu_name()}, {torch.get_num_threads()} of {os.cpu_count()} threads{load}"
    return f"{name}; torch {torch.__version__}"
