#!/usr/bin/env python3
"""Measures the dataset checks on a json of COCO's size: `python benchmarks/data_check.py`.

Writes a synthetic dataset to a temporary directory, reads and checks it, and prints the seconds.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from mrcnn_plugin.data.check import check_content
from mrcnn_plugin.data.coco_file import read_coco_json
from mrcnn_plugin.data.findings import Findings

HEIGHT, WIDTH = 480, 640


def make(root: Path, num_images: int, num_annotations: int) -> Path:
    """Write a json of random quadrilaterals; every image file is a link to the same image."""
    cv2.imwrite(str(root / "image.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (root / "images").mkdir()
    images = []
    for i in range(1, num_images + 1):
        name = f"{i:012d}.png"
        (root / "images" / name).symlink_to(root / "image.png")
        images.append({"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH})
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, (WIDTH - 100, HEIGHT - 100), (num_annotations, 2)).round(2)
    sizes = rng.uniform(5, 95, (num_annotations, 2)).round(2)
    annotations = [
        {
            "id": i + 1,
            "image_id": i % num_images + 1,
            "category_id": i % 80 + 1,
            "iscrowd": 0,
            "area": w * h,
            "bbox": [x, y, w, h],
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for i, ((x, y), (w, h)) in enumerate(zip(corners.tolist(), sizes.tolist()))
    ]
    categories = [{"id": i, "name": f"class{i}"} for i in range(1, 81)]
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    json_file = root / "instances.json"
    json_file.write_text(json.dumps({**content, "categories": categories}))
    return json_file


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--num-images", type=int, default=118287)
    parser.add_argument("--num-annotations", type=int, default=860001)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        json_file = make(Path(folder), args.num_images, args.num_annotations)
        megabytes = json_file.stat().st_size / 1e6
        start = time.perf_counter()
        content = read_coco_json(str(json_file))
        read = time.perf_counter() - start
        findings = Findings("synthetic")
        start = time.perf_counter()
        check_content(content, findings, str(Path(folder, "images")))
        checked = time.perf_counter() - start
    print(
        f"{args.num_images} images, {args.num_annotations} annotations, {megabytes:.0f} MB: "
        f"read in {read:.1f} s, checked in {checked:.1f} s, {len(findings.problems)} problems"
    )


if __name__ == "__main__":
    main()
