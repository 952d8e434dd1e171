"""Writes what `mrcnn predict` is asked for. Nothing of an image stays in memory.

Files per image are written at once. What has rows of all images (json, csv) is written whole at the
end, from a temporary file that vanishes if the program is killed.
"""

import codecs
import csv
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Instances

from ..checkpoint.files import write_atomically
from ..data.convert.writer import IMAGE_SUFFIXES
from .formats import to_coco, to_labelme, to_numbers, to_polygons
from .inputs import Frame

PER_IMAGE = ("overlays", "labelme", "masks")  # kinds that have a directory below --out
KINDS = (*PER_IMAGE, "coco", "csv")

_LARGEST_OVERLAY = 2400  # pixels of the longer side: drawing takes memory and seconds beyond it


class Outputs:
    """Receives images one by one and writes the chosen kinds of output below a directory.

    Attributes:
        num_images: received so far.
        num_instances: by class name, received so far.
    """

    def __init__(
        self,
        folder: str | Path,
        kinds: Sequence[str],
        class_names: Sequence[str],
        *,
        scale: float | None = None,
        tolerance: float = 0.0,
    ):
        """
        Args:
            folder: receives everything; created if needed.
            kinds: some of `KINDS`.
            class_names: in the order of `pred_classes`.
            scale: millimetres per pixel, for areas in the csv; None leaves them out.
            tolerance: of polygons for labelme, see `to_polygons`.
        """
        self.folder, self.kinds = Path(folder), kinds
        self.folder.mkdir(parents=True, exist_ok=True)
        self.num_images, self.num_instances = 0, Counter()
        self._names, self._scale, self._tolerance = list(class_names), scale, tolerance
        self._next_annotation = 1
        self._lines = tempfile.TemporaryFile("w+", dir=folder)  # noqa: SIM115  a json per image

    def add(self, frame: Frame, instances: Instances) -> None:
        """Write what concerns one image, whose instances have no empty masks."""
        self.num_images += 1
        self.num_instances.update(self._names[c] for c in instances.pred_classes.tolist())
        if "overlays" in self.kinds:
            suffix = Path(frame.name).suffix.lower()
            name = frame.name if suffix in IMAGE_SUFFIXES else f"{frame.name}.png"
            drawn = draw_overlay(frame.image, instances, self._names)
            _write_image(self.folder / "overlays" / name, drawn)
        if "labelme" in self.kinds:
            self._write_labelme(frame, instances)
        if "masks" in self.kinds:
            _write_image(self.folder / "masks" / f"{frame.stem}.png", to_numbers(instances))
        if {"coco", "csv"} & {*self.kinds}:
            self._add_line(frame.name, instances)

    def finish(self) -> dict[str, Path]:
        """Write the files with rows of all images; returns every path that has been written to."""
        written = {k: self.folder / k for k in PER_IMAGE if k in self.kinds and self.num_images}
        if "coco" in self.kinds:
            written["coco"] = self.folder / "predictions.json"
            write_atomically(written["coco"], self._write_coco)
        if "csv" in self.kinds:
            for name, rows in (("predictions", self._predictions), ("counts", self._counts)):
                path = written[f"csv of {name}"] = self.folder / f"{name}.csv"
                write_atomically(path, lambda file, rows=rows: _write_csv(file, rows()))
        return written

    def _write_labelme(self, frame: Frame, instances: Instances) -> None:
        path = self.folder / "labelme" / f"{frame.stem}.json"
        if frame.path is None:  # of a video: labelme needs a file
            _write_image(path.with_suffix(".png"), frame.image)
            name = path.with_suffix(".png").name
        else:  # "..", which it begins with, is the parent of the real directory
            name = os.path.relpath(frame.path, os.path.realpath(path.parent)).replace(os.sep, "/")
        content = to_labelme(instances, name, self._names, tolerance=self._tolerance)
        text = json.dumps(content, indent=2).encode()
        write_atomically(path, lambda file: file.write(text))

    def _add_line(self, name: str, instances: Instances) -> None:
        height, width = instances.image_size
        image = {"id": self.num_images, "file_name": name, "width": width, "height": height}
        annotations = to_coco(instances, self.num_images, first_id=self._next_annotation)
        self._next_annotation += len(annotations)
        self._lines.write(json.dumps([image, annotations]) + "\n")

    def _read_lines(self) -> Iterator[tuple[dict, list[dict]]]:
        """The image and the annotations of a COCO json, of each image."""
        self._lines.seek(0)
        yield from map(json.loads, self._lines)

    def _write_coco(self, file: BinaryIO) -> None:
        images = (image for image, _ in self._read_lines())
        file.write(json.dumps(coco_head(self._names))[:-1].encode())
        _write_json_list(file, "images", images)
        annotations = (a for _, annotations in self._read_lines() for a in annotations)
        _write_json_list(file, "annotations", annotations)
        file.write(b"}\n")

    def _predictions(self) -> Iterator[Sequence]:
        """The rows of predictions.csv."""
        area = [] if self._scale is None else ["area_mm2"]
        box = ("x", "y", "width", "height", "area_pixels")
        yield ["image", "instance", "class", "score", *box, *area]
        for image, annotations in self._read_lines():
            for number, a in enumerate(annotations, start=1):
                area = [] if self._scale is None else [round(a["area"] * self._scale**2, 6)]
                about = (image["file_name"], number, self._names[a["category_id"] - 1], a["score"])
                yield [*about, *a["bbox"], a["area"], *area]

    def _counts(self) -> Iterator[Sequence]:
        """The rows of counts.csv."""
        yield ["image", *self._names, "total"]
        for image, annotations in self._read_lines():
            counts = Counter(a["category_id"] for a in annotations)
            per_class = [counts[k] for k in range(1, len(self._names) + 1)]
            yield [image["file_name"], *per_class, len(annotations)]


def _write_image(path: Path, image: np.ndarray) -> None:
    _, content = cv2.imencode(path.suffix.lower(), image)
    write_atomically(path, lambda file: file.write(content))


def _write_json_list(file: BinaryIO, key: str, values: Iterator[dict]) -> None:
    file.write(f',\n"{key}": ['.encode())
    for value in values:
        separator = ",\n" if value["id"] > 1 else "\n"
        file.write(f"{separator}{json.dumps(value)}".encode())
    file.write(b"\n]")


def _write_csv(file: BinaryIO, rows: Iterator[Sequence]) -> None:
    text = codecs.getwriter("utf-8")(file, "backslashreplace")  # for names that are not UTF-8
    csv.writer(text, lineterminator="\n").writerows(rows)


def coco_head(class_names: Sequence[str]) -> dict:
    """A COCO json without its `images` and `annotations`."""
    categories = [{"id": k, "name": name} for k, name in enumerate(class_names, start=1)]
    return {"info": {"description": "predictions"}, "licenses": [], "categories": categories}


def without_empty(instances: Instances) -> Instances:
    """Drop instances whose mask has no pixel: no other program could read them."""
    if not instances.has("pred_masks"):
        return instances
    return instances[torch.from_numpy(instances.pred_masks.areas() > 0)]


def draw_overlay(image: np.ndarray, instances: Instances, class_names: Sequence[str]) -> np.ndarray:
    """Draw instances on an image. A class has the same color in every image.

    Args:
        image: BGR uint8 (height, width, 3).
        instances: of a `Predictor` for it.
        class_names: in the order of `pred_classes`.

    Returns:
        BGR uint8; at most 2400 pixels along the longer side.
    """
    from ..evaluation.report.draw import class_colors, draw_instances  # matplotlib takes a second

    scale = min(1.0, _LARGEST_OVERLAY / max(image.shape[:2]))
    if scale < 1:
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    masks = ()
    if instances.has("pred_masks"):
        masks = [[np.array(p) * scale for p in parts] for parts in to_polygons(instances)]
    classes = instances.pred_classes.tolist()
    colors = class_colors(Metadata(thing_classes=list(class_names)))
    drawn = draw_instances(
        np.ascontiguousarray(image[:, :, ::-1]),
        instances.pred_boxes.tensor.numpy() * scale,
        masks=masks,
        labels=[f"{class_names[c]} {s:.0%}" for c, s in zip(classes, instances.scores.tolist())],
        colors=[colors[c] for c in classes],
        scale=1.0,
    )
    return drawn[:, :, ::-1]
