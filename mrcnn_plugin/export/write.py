"""Writes an exported file, and checks it before it gets its name."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..checkpoint.model_file import description
from ..errors import RunError
from ..inference.predictor import Predictor
from .check import Comparison, compare, references
from .formats import FORMATS
from .graph import InferenceGraph


def export_model(
    predictor: Predictor, path: Path, format: str, *, images: Sequence[Tensor] = ()
) -> list[Comparison]:
    """Write a model with its thresholds, class names and preprocessing to one file.

    Args:
        predictor: on the CPU. Its thresholds become those of the file.
        path: the file; it appears whole and after the check, or not at all.
        format: a key of `FORMATS`.
        images: uint8 (3, H, W), in which the written file is compared with the model.

    Returns:
        the comparison of each image, for each program here that can run the file.

    Raises:
        ConfigError: a part of the model cannot be exported.
        RunError: the file has other detections than the model in one of the images, there is
            nothing to compare, or the file cannot be written.
    """
    graph = InferenceGraph(predictor.model, predictor.thresholds).eval()
    expected = references(predictor, images) if images else []
    content = FORMATS[format].content(graph, about(predictor))
    unfinished = path.with_name(f"{path.stem}.unfinished{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        runtimes = FORMATS[format].runtimes(unfinished) if expected else {}
        comparisons = [c for name, run in runtimes.items() for c in compare(name, run, expected)]
        _raise_if_different(path, comparisons)
        os.replace(unfinished, path)
    except OSError as error:
        raise RunError(
            f"{path} could not be written ({error.strerror or error}). Free space, make the folder "
            "writable, or pass another name."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
    return comparisons


def _raise_if_different(path: Path, comparisons: list[Comparison]) -> None:
    if different := [str(c) for c in comparisons if not c.is_equal()]:
        raise RunError(
            f"{path} has not been written, because its detections differ from the model's in "
            f"{len(different)} of {len(comparisons)} images:\n  " + "\n  ".join(different)
        )


_STEPS = (
    "Resize the image so that its shorter side has shortest_side pixels (0: keep the size) and its "
    "longer side at most longest_side, as Pillow's BILINEAR does. Order the channels as `channels` "
    "and pass them as uint8 (3, height, width). The graph subtracts mean and divides by std."
)
_OUTPUTS = (
    "The N instances by descending score: boxes float32 (N, 4), x1 y1 x2 y2 in pixels of the "
    "resized image; scores float32 (N,); classes int64 (N,), from 0; masks float32 (N, m, m), "
    "probabilities on a grid over the box, of which 0.5 and more is the instance."
)


def about(predictor: Predictor) -> dict:
    """What a file contains in addition to the graph, as plain values."""
    thresholds = [round(value, 6) for value in predictor.thresholds.tolist()]
    content = description(predictor.cfg)
    return {
        "class_names": predictor.class_names,
        "score_thresholds": thresholds,
        "preprocessing": {**content["preprocessing"], "steps": _STEPS},
        "outputs": _OUTPUTS,
        "version": content["version"],
    }
