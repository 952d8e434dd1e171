#!/usr/bin/env python3
"""Runs every benchmark of this folder in turn: `python benchmarks/run_all.py --quick|--full`.

Prints the tables of each script under a heading. A script that fails does not stop the others; the
exit status is then 1. `--full` takes hours on two cores and needs a machine that does nothing else.
"""

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# The runs of a script, if it has several or if it has no --quick. Others run once.
FULL = {"train_step": [(), ("--stages",)]}
QUICK = {
    "data_check": [("--num-images", "1000", "--num-annotations", "8000")],
    "predict": [("20", "600", "800", "--repeats", "1")],
    "time_to_ap": [("--seeds", "1", "--iterations", "20", "--period", "10")],
    "train_step": [("--quick",), ("--quick", "--stages")],
}


def scripts(folder: Path = FOLDER) -> list[Path]:
    """The files of a folder that have a main program, without this one, in alphabetical order."""
    files = [file for file in sorted(folder.glob("*.py")) if file.stem != "run_all"]
    return [file for file in files if 'if __name__ == "__main__":' in file.read_text()]


def run(script: Path, arguments: tuple[str, ...]) -> bool:
    """Print the heading and the output of one run. True if it succeeded."""
    print(f"\n## {' '.join([f'benchmarks/{script.name}', *arguments])}\n", flush=True)
    status = subprocess.run([sys.executable, str(script), *arguments], cwd=FOLDER.parent).returncode
    if status:
        print(f"\nThis benchmark failed with exit status {status}.", flush=True)
    return status == 0


def main(folder: Path = FOLDER) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--quick", action="store_true", help="minutes: checks that everything runs")
    mode.add_argument(
        "--full", action="store_true", help="hours: the figures of docs/benchmarks.md"
    )
    quick = parser.parse_args().quick
    failed = []
    for script in scripts(folder):
        runs = QUICK.get(script.stem, [("--quick",)]) if quick else FULL.get(script.stem, [()])
        for arguments in runs:
            if not run(script, arguments):
                failed.append(" ".join([script.name, *arguments]))
    if failed:
        print(f"\n{len(failed)} benchmarks failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
