"""Prints the tables of docs/reliability.md: `make reliability`, or `... SECTIONS="resume ops"`.

Every other module of this folder measures one section. Its docstring says what is done, and its
function `table()` returns the section's Markdown table. A module has to run for a few minutes at
most on two cores.
"""

import argparse
import importlib
import pkgutil
from collections.abc import Sequence

import benchmarks.reliability
from benchmarks.timing import machine


def sections() -> list[str]:
    """The names of the modules that measure something, in alphabetical order."""
    found = pkgutil.iter_modules(benchmarks.reliability.__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="section", help=f"of {sections()}")
    names = parser.parse_args(argv).sections or sections()
    for name in names:
        if name not in sections():
            parser.error(f"there is no section '{name}'; expected one of {', '.join(sections())}")
    print(machine("cpu"))
    for name in names:
        module = importlib.import_module(f"benchmarks.reliability.{name}")
        print(f"\n## {name}\n\n{module.table()}", flush=True)


if __name__ == "__main__":
    main()
