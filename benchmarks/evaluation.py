"""Compares hotcoco, which `TEST.COCO_EVAL` can choose, with pycocotools on generated objects.

    python benchmarks/evaluation.py [--quick] [--images N] [--detections N] [--repeats N]

Prints Markdown. Both sides evaluate the same detections alternately, from the lists in memory to
the twelve numbers of COCO's summary, with the limits on detections that COCO has. The objects of 80
classes are between 1 and 240 pixels wide; 2 % are crowd regions. Some detections are duplicates or
have equal scores, and some images have no object. Times are medians in ms. The ratio is
pycocotools' time divided by that of the other side, with its median and quartiles over the repeats.
Peaks of memory are those of a new process per case, beyond the lists. detectron2's `COCOeval_opt`
is measured as well if its extension is built. The script fails unless the numbers, and the arrays
of precision, recall and scores, are bit-identical.
"""

import argparse
import contextlib
import io
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from timing import HEADER, compare, machine

from mrcnn_plugin.evaluation.coco_eval import run_coco_eval

try:
    from detectron2.evaluation.fast_eval_api import COCOeval_opt
except ImportError:  # its C++ extension is not built
    COCOeval_opt = None

HEIGHT, WIDTH = 480, 640
NUM_CLASSES = 80
MAX_DETS = [1, 10, 100]


def blob(random, x, y, radius):
    """The RLE of a star-shaped polygon."""
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    radii = radius * (1 + 0.2 * random.standard_normal(16))
    points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1)
    polygon = points.clip(0, [WIDTH, HEIGHT]).round(2).ravel().tolist()
    return mask_utils.frPyObjects([polygon], HEIGHT, WIDTH)[0]


def place(random):
    """x, y, radius and category id of an object."""
    radius = math.exp(random.uniform(math.log(0.5), math.log(120)))
    category_id = int(random.integers(1, NUM_CLASSES + 1))
    return random.uniform(0, WIDTH), random.uniform(0, HEIGHT), radius, category_id


def near(random, objects):
    """Near one of the objects, sometimes with another class; anywhere without objects."""
    x, y, radius, category_id = objects[random.integers(len(objects))] if objects else place(random)
    x, y = random.normal((x, y), radius * 0.1)
    other = place(random)[-1] if random.random() < 0.2 else category_id
    return x, y, radius * math.exp(random.normal(0, 0.15)), other


def record(random, image_id, x, y, radius, category_id):
    rle = blob(random, x, y, radius)
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": mask_utils.toBbox(rle).tolist(),
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()},
    }


def generate(num_images, num_detections, seed=0):
    """(content of a COCO json, COCO results), the same ones at every call."""
    random = np.random.default_rng(seed)
    annotations, results = [], []
    for image_id in range(1, num_images + 1):
        objects = [place(random) for _ in range(random.poisson(7) if image_id % 10 else 0)]
        for found in objects:
            annotation = record(random, image_id, *found)
            area = float(mask_utils.area(annotation["segmentation"]))
            crowd = int(random.random() < 0.02)
            annotations.append(
                {**annotation, "id": len(annotations) + 1, "area": area, "iscrowd": crowd}
            )
        while len(results) < image_id * num_detections // num_images:
            found = near(random, objects) if random.random() < 0.6 else place(random)
            result = {**record(random, image_id, *found), "score": round(random.random(), 3)}
            results += [result] * (2 if random.random() < 0.05 else 1)
    content = {
        "info": {},
        "licenses": [],
        "images": [
            {"id": i, "height": HEIGHT, "width": WIDTH, "file_name": f"{i}.jpg"}
            for i in range(1, num_images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, NUM_CLASSES + 1)],
    }
    return content, [dict(result) for result in results[:num_detections]]


def reference(truth, results, task, evaluator=COCOeval):
    """(numbers of the summary, arrays) of pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        skipped = "bbox" if task == "segm" else ""  # with it, loadRes takes the area of the box
        results = [{k: v for k, v in result.items() if k != skipped} for result in results]
        coco_eval = evaluator(truth, truth.loadRes(results), task)
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    return coco_eval.stats, coco_eval.eval


def ours(truth, results, task):
    with contextlib.redirect_stdout(io.StringIO()):
        found = run_coco_eval(truth, results, task, max_dets=MAX_DETS, engine="hotcoco")
    return found.stats, found.eval


SIDES = {"pycocotools": reference, "hotcoco": ours}
if COCOeval_opt:
    SIDES["COCOeval_opt"] = partial(reference, evaluator=COCOeval_opt)


def check_equal(expected, found):
    """Raise an AssertionError unless numbers and arrays are bit-identical."""
    np.testing.assert_array_equal(found[0], expected[0], strict=True)
    for name in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(found[1][name], expected[1][name], strict=True)


def megabytes(name):
    """VmRSS, the resident size of this process, or VmHWM, its peak, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def growth(side, *case):
    """The peak of memory of one evaluation in this process, beyond what it has now, in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = megabytes("VmRSS")
    SIDES[side](*case)
    return megabytes("VmHWM") - before


def print_memory(cases):
    print("| peak memory | " + " | ".join(f"{side} MB" for side in SIDES) + " |")
    print("|---" * (len(SIDES) + 1) + "|")
    for name, case in cases.items():
        peaks = []
        for side in SIDES:
            with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
                peaks.append(pool.submit(growth, side, *case).result())
        print(f"| {name} | " + " | ".join(f"{peak:.0f}" for peak in peaks) + " |", flush=True)


def print_times(cases, repeats):
    for side in list(SIDES)[1:]:
        print("\n" + HEADER.format("pycocotools", side))
        for name, case in cases.items():
            calls = [partial(SIDES[each], *case) for each in ("pycocotools", side)]
            check_equal(*(call() for call in calls))
            print(compare(*calls, repeats=repeats, device="cpu").row(name), flush=True)
    if not COCOeval_opt:
        print("\nCOCOeval_opt is not measured: detectron2's extension is not built.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100 images and one repeat")
    parser.add_argument("--images", type=int, help="1000 by default")
    parser.add_argument("--detections", type=int, help="50 per image by default")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    images = args.images or (100 if args.quick else 1000)
    content, results = generate(images, args.detections or 50 * images)
    truth = COCO()
    truth.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    versions = ", ".join(f"{name} {version(name)}" for name in ("pycocotools", "hotcoco"))
    print(f"{machine('cpu')}, {versions}.\n\n{images} images, ", end="")
    print(f"{len(content['annotations'])} objects, {len(results)} detections.\n")
    cases = {"boxes": (truth, results, "bbox"), "masks": (truth, results, "segm")}
    print_memory(cases)  # first: hotcoco's threads do not survive a fork
    print_times(cases, 1 if args.quick else args.repeats)
    print("\nNumbers and arrays are bit-identical.")


if __name__ == "__main__":
    main()
