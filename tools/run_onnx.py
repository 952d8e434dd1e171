"""Finds and draws the instances of an image with a file of `mrcnn export --format onnx`.

    python tools/run_onnx.py model.onnx photo.jpg drawn.png

Needs numpy, onnxruntime and opencv only, and nothing of mrcnn_plugin: the classes, their thresholds
and the preprocessing are in the file. Prints a line per instance: class, score and box (x1, y1, x2,
y2) in pixels of the image.
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime


class Model:
    """A file of `mrcnn export`. `about` has its metadata."""

    def __init__(self, path, providers=("CPUExecutionProvider",)):
        self.session = onnxruntime.InferenceSession(path, providers=list(providers))
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.about = {key: json.loads(value) for key, value in metadata.items()}

    def __call__(self, image):
        """The instances of a BGR uint8 image (height, width, 3), best score first.

        Returns:
            boxes float32 (N, 4), scores float32 (N,), classes int64 (N,) and masks bool
            (N, height, width), or None for a model without masks; all in pixels of `image`.
        """
        size = image.shape[:2]
        resized = resize(image, self.resized_size(*size))
        if self.about["preprocessing"]["channels"] == "RGB":
            resized = resized[:, :, ::-1]
        tensor = np.ascontiguousarray(resized.transpose(2, 0, 1))
        boxes, scores, classes, *grids = self.session.run(None, {"image": tensor})
        scale = [size[1] / resized.shape[1], size[0] / resized.shape[0]]
        boxes = (boxes * np.float32(scale * 2)).clip(0, np.float32([size[1], size[0]] * 2))
        there = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        boxes, masks = boxes[there], None
        if grids:
            masks = np.zeros((len(boxes), *size), bool)
            for mask, grid, box in zip(masks, grids[0][there], boxes):
                mask[:] = paste(grid, box, size)
        return boxes, scores[there], classes[there], masks

    def resized_size(self, *size):
        """(height, width) of the network's input for an image, rounded as detectron2 does."""
        shortest = self.about["preprocessing"]["shortest_side"] or min(size)
        longest = self.about["preprocessing"]["longest_side"]
        sides = [shortest if side == min(size) else side * (shortest / min(size)) for side in size]
        limit = min(1.0, longest / max(sides))
        return [int(side * limit + 0.5) for side in sides]


def resize(image, size):
    """What Pillow's resize(BILINEAR) computes: with antialiasing, which OpenCV's lacks.

    Pillow shrinks the height first if that shrinks much more; other images lose width first.
    """
    for axis, length in ((1, size[1]), (0, size[0])):
        if image.shape[axis] != length:
            weights = np.floor(triangle_weights(image.shape[axis], length) * 2**22 + 0.5)
            image = np.moveaxis(np.tensordot(weights, image, axes=(1, axis)), 0, axis)
            image = ((image + 2**21) // 2**22).clip(0, 255).astype(np.uint8)
    return image


def triangle_weights(old, new):
    """(new, old) weights of the pixels of a row. The kernel grows where the row shrinks."""
    scale = old / new
    reach = max(scale, 1.0)
    centers = ((np.arange(new) + 0.5) * scale)[:, None]
    pixels = np.arange(old)
    weights = np.clip(1 - np.abs((pixels + 0.5 - centers) / reach), 0, None)
    first, last = np.floor(centers - reach + 0.5), np.floor(centers + reach + 0.5)
    weights = weights * ((pixels >= first) & (pixels < last))
    return weights / weights.sum(axis=1, keepdims=True)


def paste(grid, box, size):
    """The mask (height, width) of an instance: its probabilities at least 0.5 at pixel centres."""
    x1, y1, x2, y2 = box
    columns = interpolation(size[1], x1, x2, grid.shape[1])
    rows = interpolation(size[0], y1, y2, grid.shape[0])
    return rows @ grid @ columns.T >= 0.5


def interpolation(length, low, high, bins):
    """(length, bins) linear weights of bins over [low, high] at pixel centres; 0 outside."""
    centers = np.arange(length, dtype=np.float32) + np.float32(0.5)
    position = (centers - low) / (high - low) * bins - np.float32(0.5)
    return np.clip(1 - np.abs(position[:, None] - np.arange(bins, dtype=np.float32)), 0, None)


def draw(image, boxes, classes, masks, names):
    for index, (box, name) in enumerate(zip(boxes.astype(int).tolist(), classes)):
        color = np.random.default_rng(index).integers(64, 256, 3)
        if masks is not None:
            image[masks[index]] = image[masks[index]] // 2 + color // 2
        cv2.rectangle(image, box[:2], box[2:], color.tolist(), 2)
        cv2.putText(image, names[name], (box[0], box[1] + 12), 0, 0.5, (255, 255, 255))


def main(model_file, image_file, drawn_file):
    model, image = Model(model_file), cv2.imread(image_file)
    if image is None:
        sys.exit(f"{image_file} cannot be read as an image")
    names = model.about["class_names"]
    boxes, scores, classes, masks = model(image)
    for box, score, index in zip(boxes.tolist(), scores, classes):
        print(names[index], round(float(score), 3), [round(x, 1) for x in box])
    draw(image, boxes, classes, masks, names)
    cv2.imwrite(drawn_file, image)


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) == 4 else sys.exit(__doc__)
