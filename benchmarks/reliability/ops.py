"""Runs the tests of the native ops that draw calls, starve them of memory or call them at once.

Each row runs some tests of tests/layers in a process of its own, and shows what they counted: the
calls that they made, the tests that failed, and by how much the memory of the process grew. Seconds
are those of the CPU, so that other programs do not change them. The rows of SLOW take some minutes
and up to 9 GB, so that only this command prints them:

    python -m benchmarks.reliability.ops --slow
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

from benchmarks.timing import machine

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ROOT / "tests/layers"
HEADER = "| what | cases | failures | memory growth | CPU s |\n|---|---|---|---|---|"
DRAWN_CASES = 800  # per op and mode


class Row(NamedTuple):
    name: str
    file: str
    select: str  # pytest's -k


FAST = (
    Row("drawn calls, compared with a float64 oracle", "properties", "any_call"),
    Row("drawn calls with a batch index out of range", "properties", "out_of_range"),
    Row("forward and backward, repeated", "memory", "repeated_calls"),
    Row("too little memory for scratch", "memory", "too_little_memory"),
    Row("10^8 images or 10^12 channels without bytes", "memory", "take_no_time"),
    Row("bad input, a process per case", "faults", "stated_answer"),
    Row("8 threads at once, 10 calls each", "torch", "threads_at_once"),
    Row("in workers of a loader and after a fork", "torch", "workers or after_fork"),
)
SLOW = (
    Row("drawn calls on the emulated CUDA kernels", "emulation", "drawn_calls"),
    Row("drawn calls under the sanitizers", "builds", "drawn_calls"),
    Row("tensors of more than 2^31 elements", "faults", "2_31"),
)


def run(row: Row) -> str:
    """Run the tests of a row and return it in Markdown."""
    with tempfile.TemporaryDirectory() as directory:
        report, start = Path(directory) / "report.xml", cpu_seconds()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                *(
                    f"--junitxml={report}",
                    "-k",
                    row.select,
                    LAYERS / f"test_roi_align_{row.file}.py",
                ),
            ],
            cwd=ROOT,
            env={**os.environ, "MRCNN_PROPERTY_CASES": str(DRAWN_CASES)},
            capture_output=True,
            text=True,
        )
        seconds = cpu_seconds() - start
        if done.returncode not in (0, 1):  # 1: tests failed
            sys.exit(f"the tests of '{row.name}' did not run:\n{done.stdout}{done.stderr}")
        tests = ElementTree.parse(report).findall(".//testcase")
    skipped = [test.find("skipped") for test in tests]
    if all(skip is not None for skip in skipped):
        return f"| {row.name} | skipped: {skipped[0].get('message')} | | | |"
    failed = sum(
        test.find("failure") is not None or test.find("error") is not None for test in tests
    )
    cases = sum(counted(test, "cases", default=1) for test in tests)
    growth = [counted(test, "growth") for test in tests if "growth" in properties(test)]
    text = f"{sum(growth) / 1024:.0f} kB in all" if growth else ""
    return f"| {row.name} | {cases} | {failed} | {text} | {seconds:.0f} |"


def cpu_seconds() -> float:
    """The time that processes which have ended have computed for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def properties(test: ElementTree.Element) -> dict[str, str]:
    return {p.get("name"): p.get("value") for p in test.iter("property")}


def counted(test: ElementTree.Element, name: str, default: int = 0) -> int:
    return int(properties(test).get(name, default))


def table(slow: bool = False) -> str:
    return "\n".join([HEADER, *map(run, FAST + SLOW * slow)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slow", action="store_true", help="the slow rows, too")
    slow = parser.parse_args().slow
    print(f"{machine('cpu')}\n\n{table(slow)}")
