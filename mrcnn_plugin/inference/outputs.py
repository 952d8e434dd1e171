"""Writes what `mrcnn predict` is asked for. Nothing of an image stays in memory.

Files per image are written at once. What has rows of all images (json, csv) is collected in
temporary files, which are written whole at the end and vanish if the program is killed.
"""

import csv
import io
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

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
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.num_images, self.num_instances = 0, Counter()
        self._names, self._scale, self._tolerance = list(class_names), scale, tolerance
        self._per_image = [kind for kind in PER_IMAGE if kind in kinds]
        self._next_annotation = 1
        self._rows: dict[str, io.TextIOBase] = {}
        if "coco" in kinds:
            self._rows |= {"images": self._temporary(), "annotations": self._temporary()}
        if "csv" in kinds:
            self._rows |= {"predictions": self._temporary(), "counts": self._temporary()}
            area = ["area_mm2"] if scale is not None else []
            box = ("x", "y", "width", "height", "area_pixels")
            self._write_csv("predictions", ["image", "instance", "class", "score", *box, *area])
            self._write_csv("counts", ["image", *self._names, "total"])

    def add(self, frame: Frame, instances: Instances) -> None:
        """Write what concerns one image, whose instances have no empty masks."""
        self.num_images += 1
        classes = instances.pred_classes.tolist()
        self.num_instances.update(self._names[c] for c in classes)
        for kind in self._per_image:
            getattr(self, f"_write_{kind}")(frame, instances)
        if not self._rows:
            return
        annotations = to_coco(instances, self.num_images, first_id=self._next_annotation)
        self._next_annotation += len(annotations)
        if "images" in self._rows:
            height, width = instances.image_size
            size = {"width": width, "height": height}
            self._write_json("images", {"id": self.num_images, "file_name": frame.name, **size})
            for annotation in annotations:
                self._write_json("annotations", annotation)
        if "predictions" in self._rows:
            self._add_csv(frame.name, annotations)

    def finish(self) -> dict[str, Path]:
        """Write the files with rows of all images; returns every path that has been written to."""
        written = {kind: self.folder / kind for kind in self._per_image if self.num_images}
        if "images" in self._rows:
            written["coco"] = self.folder / "predictions.json"
            write_atomically(written["coco"], self._copy_coco)
        if "predictions" in self._rows:
            for name in ("predictions", "counts"):
                written[f"csv of {name}"] = self.folder / f"{name}.csv"
                write_atomically(written[f"csv of {name}"], lambda f, n=name: self._copy(n, f))
        return written

    # ---- files per image

    def _write_overlays(self, frame: Frame, instances: Instances) -> None:
        suffix = Path(frame.name).suffix.lower()
        name = frame.name if suffix in IMAGE_SUFFIXES else f"{frame.name}.png"
        drawn = draw_overlay(frame.image, instances, self._names)
        _, content = cv2.imencode(Path(name).suffix.lower(), drawn)
        write_atomically(self.folder / "overlays" / name, lambda file: file.write(content))

    def _write_labelme(self, frame: Frame, instances: Instances) -> None:
        path = self.folder / "labelme" / f"{frame.stem}.json"
        if frame.path is None:  # of a video: labelme needs a file
            _, content = cv2.imencode(".png", frame.image)
            write_atomically(path.with_suffix(".png"), lambda file: file.write(content))
            image = path.with_suffix(".png").name
        else:
            image = os.path.relpath(frame.path, path.parent.absolute()).replace(os.sep, "/")
        content = to_labelme(instances, image, self._names, tolerance=self._tolerance)
        text = json.dumps(content, indent=2).encode()
        write_atomically(path, lambda file: file.write(text))

    def _write_masks(self, frame: Frame, instances: Instances) -> None:
        _, content = cv2.imencode(".png", to_numbers(instances))
        path = self.folder / "masks" / f"{frame.stem}.png"
        write_atomically(path, lambda file: file.write(content))

    # ---- files with rows of all images

    def _temporary(self) -> io.TextIOBase:
        options = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
        return tempfile.TemporaryFile("w+", dir=self.folder, **options)

    def _write_json(self, name: str, value: dict) -> None:
        file = self._rows[name]
        file.write((",\n" if file.tell() else "") + json.dumps(value))

    def _write_csv(self, name: str, row: Sequence) -> None:
        csv.writer(self._rows[name], lineterminator="\n").writerow(row)

    def _add_csv(self, image: str, annotations: list[dict]) -> None:
        counts = Counter(a["category_id"] for a in annotations)
        per_class = [counts[k] for k in range(1, len(self._names) + 1)]
        self._write_csv("counts", [image, *per_class, len(annotations)])
        for number, a in enumerate(annotations, start=1):
            about = (image, number, self._names[a["category_id"] - 1], a["score"])
            area = [] if self._scale is None else [round(a["area"] * self._scale**2, 6)]
            self._write_csv("predictions", [*about, *a["bbox"], a["area"], *area])

    def _copy_coco(self, file) -> None:
        file.write(json.dumps(coco_head(self._names))[:-1].encode() + b',\n"images": [\n')
        self._copy("images", file)
        file.write(b'\n],\n"annotations": [\n')
        self._copy("annotations", file)
        file.write(b"\n]}\n")

    def _copy(self, name: str, file) -> None:
        self._rows[name].seek(0)  # flushes too
        shutil.copyfileobj(self._rows[name].buffer, file)


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
