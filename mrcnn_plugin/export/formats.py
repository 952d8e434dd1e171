"""The formats of exported files: how a file of each is written and run."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from .aoti import runtimes_of_aoti, to_aoti
from .graph import InferenceGraph, Run
from .onnx_file import runtimes_of_onnx, to_onnx
from .program import export_program

ABOUT = "mrcnn_plugin.json"  # the entry of a pt2 file with everything but the graph


def to_pt2(graph: InferenceGraph, about: dict) -> bytes:
    content = io.BytesIO()  # torch aborts the process if it cannot write to a path
    torch.export.save(export_program(graph), content, extra_files={ABOUT: json.dumps(about)})
    return content.getvalue()


def runtimes_of_pt2(path: Path) -> dict[str, Run]:
    return {"torch.export": torch.export.load(path).module()}


class Format(NamedTuple):
    """
    Attributes:
        suffix: of the names of its files.
        content: returns the content of the file of a graph and of plain values about it.
        runtimes: returns what can run such a file here, by name; at least one.
    """

    suffix: str
    content: Callable[[InferenceGraph, dict], bytes]
    runtimes: Callable[[Path], dict[str, Run]]


FORMATS = {
    "pt2": Format(".pt2", to_pt2, runtimes_of_pt2),
    "aoti": Format(".pt2", to_aoti, runtimes_of_aoti),
    "onnx": Format(".onnx", to_onnx, runtimes_of_onnx),
}
