"""Compute a step with a non-finite loss again, and find the module where it began.

example:
  mrcnn replay OUTPUT_DIR/nonfinite/iteration_0000123_rank0.pth --device cpu

The exit status is 1 if the step is not finite again and 0 if it is finite now. Reading a file
executes nothing in it.
"""

import argparse
from collections.abc import Sequence

from ..engine.replay import replay


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="a file that a run has written to OUTPUT_DIR/nonfinite/")
    parser.add_argument("--device", help="cpu or cuda; by default the device of the run")
    args = parser.parse_args(argv)

    result = replay(args.file, args.device)
    for index, losses in enumerate(result.losses):
        values = ", ".join(f"{name} {value:.6g}" for name, value in losses.items())
        print(f"iteration {result.iteration}, piece {index} of the batch: {values}")
    if result.what is None:
        print("every loss and gradient is finite: the step does not fail again")
        return 0
    print(f"not finite: {result.what}")
    if result.module:
        print(f"first module with an output that is not finite: {result.module}")
    return 1
