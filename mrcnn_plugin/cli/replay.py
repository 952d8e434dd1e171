#!/usr/bin/env python3
"""Compute again the step in which a loss became infinite or NaN, and say where it began.

mrcnn replay OUTPUT_DIR/nonfinite/iteration_0000123_rank0.pth [--device cpu]

Exit status: 1 when the step is not finite again, 0 when it is finite now. The file is a pickle:
open those of your own runs only.
"""

import argparse
import sys

from mrcnn_plugin.engine import replay


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="what a stopped run left in OUTPUT_DIR/nonfinite/")
    parser.add_argument("--device", help="cpu or cuda; where the run was, if not given")
    args = parser.parse_args()

    result = replay(args.file, args.device)
    for index, losses in enumerate(result.losses):
        values = ", ".join(f"{name} {value:.6g}" for name, value in losses.items())
        print(f"iteration {result.iteration}, piece {index} of the batch: {values}")
    if result.what is None:
        print("every loss and gradient is finite here: the step does not fail again")
        return 0
    print(f"not finite: {result.what}")
    if result.module:
        print(f"first module with an output that is not finite: {result.module}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
