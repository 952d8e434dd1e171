"""Mask R-CNN on a ResNet-101-C4 for detectron2.

`mrcnn SUBCOMMAND --help` explains a subcommand. `python -m mrcnn_plugin` is the same program.
"""

import argparse
import importlib
import sys
import warnings
from collections.abc import Callable, Sequence

from ..errors import RunError

SUBCOMMANDS = {
    "train": "train, resume and evaluate; the same as train_net.py",
    "dataset": "check, describe, draw and convert datasets",
    "report": "rebuild the report of a run, or compare runs",
    "weights": "convert weight files",
    "replay": "compute a step that had a non-finite loss again",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a subcommand and exit with its status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    lines = "\n".join(f"  {name:10}{text}" for name, text in SUBCOMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="mrcnn",
        usage="mrcnn SUBCOMMAND ...",
        description=__doc__,
        epilog=f"subcommands:\n{lines}\n\nexample:\n  mrcnn train --config-file "
        "mask_rcnn_R101_C4.yaml --num-gpus 8",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subcommand", choices=SUBCOMMANDS, help=argparse.SUPPRESS)
    if not argv:
        parser.print_help()
        return
    name = parser.parse_args(argv[:1]).subcommand
    sys.argv[0] = f"mrcnn {name}"  # what argparse shows as the name of the program
    # Raised on import by libraries that detectron2 uses; a user can do nothing about them.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    module = importlib.import_module(f"mrcnn_plugin.cli.{name}")
    sys.exit(one_sentence(f"mrcnn {name}", module.main, argv[1:]))


def one_sentence(program: str, function: Callable, argv: Sequence[str]) -> int | None:
    """Call `function(argv)`. A `RunError` is printed as `program: sentence` and gives status 1."""
    try:
        return function(argv)
    except RunError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
