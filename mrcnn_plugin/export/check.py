"""Compares an exported file with the model that it was made of."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from ..data.image_file import ImageFault
from ..data.shapes import make_shapes
from ..errors import RunError
from ..inference.inputs import read_image
from ..inference.predictor import Predictor
from .graph import Run

# The largest differences that rounding explains: pixels, and parts of a probability.
TOLERANCES = {"boxes": 0.05, "scores": 1e-3, "masks": 1e-2}


class Reference(NamedTuple):
    """The detections of the model in one image, as `InferenceGraph.forward`."""

    image: Tensor
    detections: tuple[Tensor, ...]


class Comparison(NamedTuple):
    """The detections of a file and of the model in one image.

    Attributes:
        runtime: what ran the file.
        size: (height, width) in pixels.
        expected, found: the number of detections of the model and of the file.
        differences: the largest of "boxes" in pixels, "scores" and "masks"; infinite if numbers or
            classes of detections differ.
    """

    runtime: str
    size: tuple[int, int]
    expected: int
    found: int
    differences: dict[str, float]

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        size = f"{self.size[0]}x{self.size[1]}"
        return (
            f"{self.runtime} {size:>9}: {self.found} instances of {self.expected}; "
            f"largest differences {values}"
        )

    def is_equal(self) -> bool:
        return all(value <= TOLERANCES[name] for name, value in self.differences.items())


def images_to_check(predictor: Predictor, paths: Sequence[str] = ()) -> list[Tensor]:
    """Images of at least five sizes, and a black one, as the graph takes them: uint8 (3, H, W).

    Args:
        predictor: its config determines the sizes and the order of the channels.
        paths: image files; without any, drawn shapes are used.

    Raises:
        RunError: a file cannot be read.
    """
    images = [_read(path) for path in paths] or _drawn()
    side = predictor.cfg.INPUT.MIN_SIZE_TEST or 480
    sizes = [(side, side), (side, side * 4 // 3), (side * 3 // 2 + 1, side)]
    sizes += [(side // 2 + 1, side * 2 // 3), (side // 2, side // 2 - 1)]
    tensors = [torch.zeros(3, side * 3 // 4, side, dtype=torch.uint8)]
    for number in range(max(len(images), len(sizes))):
        height, width = sizes[number % len(sizes)]
        image = cv2.resize(images[number % len(images)], (width, height))
        if predictor.cfg.INPUT.FORMAT == "RGB":
            image = image[:, :, ::-1]
        tensors.append(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))))
    return tensors


def references(predictor: Predictor, images: Sequence[Tensor]) -> list[Reference]:
    """The detections of detectron2's inference of the model in each image.

    Raises:
        RunError: no image has a detection, so that there is nothing to compare.
    """
    found = [Reference(image, _inference(predictor, image)) for image in images]
    if not any(len(reference.detections[0]) for reference in found):
        raise RunError(
            f"the model finds nothing in the {len(images)} images of the check, so there is "
            "nothing to compare. Pass images in which it finds something: --check a.jpg b.jpg"
        )
    return found


def compare(runtime: str, run: Run, references: Sequence[Reference]) -> list[Comparison]:
    """Compare the detections of a file with those of the model, image by image."""
    comparisons = []
    for image, expected in references:
        found = run(image)
        size, counts = tuple(image.shape[1:]), (len(expected[0]), len(found[0]))
        differences = _differences(expected, found)
        comparisons.append(Comparison(runtime, size, *counts, differences))
    return comparisons


@torch.no_grad()
def _inference(predictor: Predictor, image: Tensor) -> tuple[Tensor, ...]:
    """The detections of detectron2's inference in float32, as `InferenceGraph.forward`."""
    (found,) = predictor.model.inference([{"image": image}], do_postprocess=False)
    found = found[found.scores >= predictor.thresholds[found.pred_classes]]
    masks = (found.pred_masks[:, 0],) if found.has("pred_masks") else ()
    return found.pred_boxes.tensor, found.scores, found.pred_classes, *masks


def _differences(expected: tuple, found: tuple) -> dict[str, float]:
    """The largest differences of each detection of the model and the closest of its class.

    Detections whose scores differ by rounding only may be in another order.
    """
    names = ["boxes", "scores", "masks"][: len(expected) - 1]
    expected_classes, classes = expected[2], found[2]
    if not torch.equal(expected_classes.sort()[0], classes.sort()[0]):
        return dict.fromkeys(names, float("inf"))
    if len(classes) == 0:
        return dict.fromkeys(names, 0.0)
    distance = (expected[0][:, None] - found[0][None]).abs().amax(dim=2)
    distance[expected_classes[:, None] != classes[None]] = float("inf")
    partner = distance.argmin(dim=1)
    if len(partner.unique()) < len(partner):
        return dict.fromkeys(names, float("inf"))
    pairs = zip(names, expected[:2] + expected[3:], found[:2] + found[3:])
    return {name: float((a - b[partner]).abs().max()) for name, a, b in pairs}


def _read(path: str) -> np.ndarray:
    try:
        return read_image(path)
    except ImageFault as error:
        raise RunError(f"{path}, an image of --check, cannot be read: {error}") from error


def _drawn() -> list[np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        make_shapes(Path(folder, "shapes.json"), 5, seed=0)
        return [read_image(str(path)) for path in sorted(Path(folder).glob("*.png"))]
