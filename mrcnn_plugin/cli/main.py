"""`mrcnn SUBCOMMAND ...`, also as `python -m mrcnn_plugin SUBCOMMAND ...`."""

import argparse
import importlib
import sys

SUBCOMMANDS = {
    "dataset": "check, describe, draw and convert datasets",
    "report": "rebuild the report of a run, or compare runs",
    "weights": "convert weight files",
    "replay": "compute a step with a non-finite loss again",
}


def main():
    """Import the module of the subcommand and run it; exit with its status."""
    parser = argparse.ArgumentParser(prog="mrcnn", description=__doc__)
    parser.add_argument("subcommand", choices=SUBCOMMANDS, help="what to do")
    name = parser.parse_args(sys.argv[1:2]).subcommand
    sys.argv = [f"mrcnn {name}", *sys.argv[2:]]
    sys.exit(importlib.import_module(f"mrcnn_plugin.cli.{name}").main())
