"""Reads from the compiled libraries which versions of glibc, libstdc++ and torch they need.

`make wheel-matrix` runs the tests of the op under several versions of torch and Python.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mrcnn_plugin

COLUMNS = (
    "library",
    "size",
    "newest glibc symbol",
    "newest libstdc++ symbol",
    "oldest torch",
    "unstable torch symbols",
    "libraries that torch brings",
)


def newest(symbols: str, name: str) -> str:
    """The highest version of `name`, such as GLIBC, that an imported symbol has."""
    versions = re.findall(rf"\*UND\*.*\({name}_([\d.]+)\)", symbols)
    return max(versions, key=lambda version: [*map(int, version.split("."))])


def torch_abi(library: Path) -> tuple[str, str]:
    """The oldest torch that has every symbol, and the number of symbols without a stable ABI."""
    program = Path(sys.executable).with_name("torch-abi-audit")
    command = str(program) if program.exists() else shutil.which("torch-abi-audit")
    if command is None:
        return "?", "? (pip install torch-abi-audit)"
    (report,) = json.loads(output_of(command, "--json", str(library)))["bundled_libs"]
    return report["torch"]["min_torch_version"], str(len(report["torch"]["unstable_symbols"]))


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def row(library: Path) -> tuple[str, ...]:
    symbols = output_of("objdump", "-T", str(library))
    needed = re.findall(r"NEEDED +(\S+)", output_of("objdump", "-p", str(library)))
    brought = [name for name in needed if re.match("libtorch|libc10|libcudart", name)]
    return (
        library.name,
        f"{library.stat().st_size / 1e6:.1f} MB",
        newest(symbols, "GLIBC"),
        newest(symbols, "GLIBCXX"),
        *torch_abi(library),
        ", ".join(brought),
    )


def table() -> str:
    libraries = sorted(Path(mrcnn_plugin.__file__).parent.glob("_C*.so"))
    rows = [COLUMNS, ["---"] * len(COLUMNS), *map(row, libraries)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
