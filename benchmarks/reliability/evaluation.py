"""Memory and time of a COCO evaluation of 5,000 images with 100 detections each.

Every image gets 100 detections with masks of 128 x 128 pixels, as the model returns them. Two
processes (gloo) pass their halves to detectron2's `COCOEvaluator` or to this plugin's evaluator.
First the json has no annotations, so that both stop after `coco_instances_results.json` has been
written: this is the memory of keeping, gathering and merging the predictions. Then it has one
object per image, and COCOeval runs for boxes and masks, without this plugin's analysis.

Memory is the peak resident size of a process since the evaluator was created, less that at the
beginning (Linux only).
"""

import contextlib
import datetime
import io
import json
import logging
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import torch
import torch.distributed as dist
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from mrcnn_plugin.evaluation import AnalysingCOCOEvaluator, evaluator

NUM_IMAGES, NUM_DETECTIONS, NUM_OBJECTS, NUM_CLASSES, SIZE = 5000, 100, 1, 3, 128
NUM_OUTPUTS = 20  # different outputs of the model, which the images share
NAMES = {"detectron2": COCOEvaluator, "mrcnn_plugin": AnalysingCOCOEvaluator}


def draw(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (count, 4) in pixels, and masks (count, SIZE, SIZE) of blobs in them."""
    sizes = torch.randint(10, 64, (count, 2), generator=generator)
    corners = (torch.rand(count, 2, generator=generator) * (SIZE - sizes)).long()
    boxes = torch.cat([corners, corners + sizes], dim=1)
    noise = torch.rand(count, 1, 8, 8, generator=generator)
    blobs = torch.nn.functional.interpolate(noise, (SIZE, SIZE), mode="bilinear")[:, 0] > 0.4
    inside = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(inside, boxes.tolist()):
        mask[y1:y2, x1:x2] = True
    return boxes.float(), blobs & inside


def write_truth(path: Path, annotated: bool) -> None:
    """A COCO json of `NUM_IMAGES` images, with the first objects of each output as truth."""
    images = [
        {"id": i, "file_name": f"{i}.png", "height": SIZE, "width": SIZE} for i in range(NUM_IMAGES)
    ]
    content = {
        "info": {},
        "licenses": [],
        "images": images,
        "categories": [{"id": c, "name": f"class{c}"} for c in range(NUM_CLASSES)],
    }
    if annotated:
        outputs = model_outputs()
        content["annotations"] = [
            {**truth, "image_id": i, "id": i * NUM_OBJECTS + k + 1}
            for i in range(NUM_IMAGES)
            for k, truth in enumerate(objects_of(outputs[i % NUM_OUTPUTS]))
        ]
    path.write_text(json.dumps(content))


def objects_of(instances: Instances) -> list[dict]:
    objects = []
    for k in range(NUM_OBJECTS):
        rle = mask_utils.encode(np.asfortranarray(instances.pred_masks[k].numpy().view(np.uint8)))
        x1, y1, x2, y2 = instances.pred_boxes.tensor[k].tolist()
        objects.append(
            {
                "category_id": instances.pred_classes[k].item(),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": int(mask_utils.area(rle)),
                "iscrowd": 0,
                "segmentation": {**rle, "counts": rle["counts"].decode()},
            }
        )
    return objects


def model_outputs() -> list[Instances]:
    generator = torch.Generator().manual_seed(0)
    outputs = []
    for _ in range(NUM_OUTPUTS):
        boxes, masks = draw(NUM_DETECTIONS, generator)
        instances = Instances((SIZE, SIZE), pred_boxes=Boxes(boxes), pred_masks=masks)
        instances.scores = torch.rand(NUM_DETECTIONS, generator=generator)
        instances.pred_classes = torch.randint(NUM_CLASSES, (NUM_DETECTIONS,), generator=generator)
        outputs.append(instances)
    return outputs


def memory(field: str) -> float:
    """VmRSS, the resident size of this process, or VmHWM, its peak, in MB."""
    (line,) = [t for t in Path("/proc/self/status").read_text().splitlines() if field in t]
    return int(line.split()[1]) / 1000  # KiB


def reset_peak() -> float:
    """Forget the peak until now, and return the resident size."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def measure(rank: int, folder: str, name: str, output: str) -> None:
    """The body of a process: write seconds and megabytes of the two phases to a file."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{output}/store",
        world_size=2,
        rank=rank,
        timeout=datetime.timedelta(minutes=10),
    )
    comm.create_local_process_group(2)
    register_coco_instances("reliability", {}, f"{folder}/truth.json", folder)
    evaluator.analyse = lambda *_: {}
    options = {"use_fast_impl": False} if name == "detectron2" else {}
    measured = NAMES[name]("reliability", output_dir=f"{output}/inference", **options)
    outputs = model_outputs()
    measured.reset()
    before, started = reset_peak(), time.perf_counter()
    for i in range(rank * NUM_IMAGES // 2, (rank + 1) * NUM_IMAGES // 2):
        measured.process([{"image_id": i}], [{"instances": outputs[i % NUM_OUTPUTS]}])
    processed, after_process = time.perf_counter() - started, memory("VmHWM") - before
    comm.synchronize()
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        results = measured.evaluate()
    evaluated = time.perf_counter() - started
    found = (processed, after_process, evaluated, memory("VmHWM") - before, repr(results))
    Path(output, f"found{rank}.json").write_text(json.dumps(found))
    comm.synchronize()
    os._exit(0)  # gloo's threads sometimes abort an ordinary exit on a busy machine


def run(folder: str, name: str) -> tuple[list, Path]:
    """What two processes measured, and the results file."""
    output = tempfile.mkdtemp(dir=folder)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=measure, args=(rank, folder, name, output)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = [json.loads(Path(output, f"found{rank}.json").read_text()) for rank in range(2)]
    return found, Path(output, "inference/coco_instances_results.json")


def table() -> str:
    lines = [
        "| evaluator | until | rank 0: MB | rank 1: MB | seconds |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for annotated in (False, True):
            write_truth(Path(folder, "truth.json"), annotated)
            same = []
            for name in NAMES:
                ranks, file = run(folder, name)
                size = file.stat().st_size
                same.append((ranks[0][4], file.read_bytes()))
                if not annotated:
                    lines.append(row(name, "the end of inference", ranks, 0))
                phase = "COCOeval has run" if annotated else "the results file is written"
                lines.append(row(name, phase, ranks, 2))
            assert same[0] == same[1], "the evaluators differ"
    lines.append(f"\n{size / 1e6:.0f} MB of results, equal in both to the last byte.")
    return "\n".join(lines)


def row(name: str, phase: str, ranks: list, first: int) -> str:
    seconds = max(rank[first] for rank in ranks)
    memory = [f"{rank[first + 1]:,.0f}" for rank in ranks]
    return f"| {name} | {phase} | {memory[0]} | {memory[1]} | {seconds:.1f} |"
