"""The command `mrcnn SUBCOMMAND ...`, which is also `python -m mrcnn_plugin SUBCOMMAND ...`.

This module is not part of the package because importing the package imports torch: the environment
below must be set before that, and `mrcnn --help` must not take seconds.
"""

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence

# GNU OpenMP reads this when torch is imported. By default its idle threads spin for so long that
# two trainings on the same cores slow each other down fivefold. This shorter spinning costs a
# training that has the cores for itself nothing.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

SUBCOMMANDS = {
    "train": "train, resume and evaluate; the same as train_net.py",
    "slurm": "submit a training to Slurm, which is requeued and resumed",
    "predict": "find instances in images and videos with a model file",
    "serve": "a local page that finds instances in images with a model file",
    "dataset": "check, describe, draw and convert datasets",
    "report": "rebuild the report of a run, or compare runs",
    "weights": "convert weight files, show a model file",
    "export": "write a model as torch.export, AOTInductor or ONNX file",
    "replay": "compute a step that had a non-finite loss again",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the subcommand that the command line names, and exit with its status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    lines = "\n".join(f"  {name:10}{text}" for name, text in SUBCOMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="mrcnn",
        usage="mrcnn SUBCOMMAND ...",
        description="Mask R-CNN on a ResNet-101-C4 for detectron2.\n\n"
        "`mrcnn SUBCOMMAND --help` explains a subcommand.",
        epilog=f"subcommands:\n{lines}\n\nexample:\n  mrcnn train --config-file "
        "mask_rcnn_R101_C4.yaml --num-gpus 8",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subcommand", choices=SUBCOMMANDS, help=argparse.SUPPRESS)
    if not argv:
        parser.print_help()
        return
    name = parser.parse_args(argv[:1]).subcommand
    run(name, argv[1:], program=f"mrcnn {name}")


def run(subcommand: str, argv: Sequence[str], *, program: str) -> None:
    """Run a subcommand and exit with its status. A `RunError` is printed as `program: sentence`."""
    sys.argv[0] = program  # what argparse shows as the name of the program
    # Raised by detectron2 and the libraries that it uses; a user can do nothing about them. The
    # anchors need the present default of meshgrid.
    for message in ("pkg_resources is deprecated", "torch.meshgrid: in an upcoming release"):
        warnings.filterwarnings("ignore", message=message)
    try:
        module = importlib.import_module(f"mrcnn_plugin.cli.{subcommand}")
        from mrcnn_plugin.errors import one_sentence
    except KeyboardInterrupt:  # importing takes seconds
        sys.exit(130)

    sys.exit(one_sentence(program, module.main, list(argv)))


if __name__ == "__main__":
    main()
