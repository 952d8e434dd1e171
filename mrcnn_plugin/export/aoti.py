"""Packages of AOTInductor: machine code for this kind of CPU, which a C++ program loads."""

import io
import json
import os
import shutil
from pathlib import Path

import torch

from ..errors import RunError
from .graph import InferenceGraph, Run
from .program import export_program

# Convolutions of an unknown number of RoIs give wrong numbers with this optimization (torch 2.11):
# docs/deploy.md#limits-of-pytorch. For the same reason the program is not channels-last.
LAYOUT_OPTIMIZATION = False


def to_aoti(graph: InferenceGraph, about: dict) -> bytes:
    """Compile a package; every key of `about` is metadata, as json.

    Raises:
        RunError: there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise RunError(
            f"--format aoti needs a C++ compiler, but there is no '{compiler}'. Install g++, or "
            "set CXX to a compiler."
        )
    content = io.BytesIO()
    torch._inductor.aoti_compile_and_package(
        export_program(graph, channels_last=False),
        package_path=content,
        inductor_configs={
            "layout_optimization": LAYOUT_OPTIMIZATION,
            "aot_inductor.metadata": {key: json.dumps(value) for key, value in about.items()},
        },
    )
    return content.getvalue()


def runtimes_of_aoti(path: Path) -> dict[str, Run]:
    return {"AOTInductor": torch._inductor.aoti_load_package(str(path))}
