"""Measures how long a command and a training take to start, and the memory of its workers.

    python benchmarks/startup.py [--quick] [--images N] [--annotations N] [--repeats N]

Prints Markdown. The first table has the wall time of new processes, median and range over the
repeats, which alternate between the rows. The plugin imports detectron2, which imports torchvision.
The second table has the time from a registered json of COCO's size to the first batch of two
images, in new processes: with detectron2's loader, and with ours, once with the check of the
dataset and once without (DATASETS.CHECK False). All images are links to one black image. Imports
and the model are not part of the time. The memory is the peak of the main process, and the mean of
what its two workers do not share with other processes at the first batch.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    "`python -c pass`": ("-c", "pass"),
    "`mrcnn --help`": ("-m", "mrcnn_command", "--help"),
    "`import torch`": ("-c", "import torch"),
    "`import torchvision`": ("-c", "import torchvision"),
    "`import detectron2.modeling`": ("-c", "import detectron2.modeling"),
    "`import mrcnn_plugin`": ("-c", "import mrcnn_plugin"),
}
SIDES = ("detectron2", "ours", "ours, no check")
NUM_WORKERS = 2


def run(*arguments):
    """Standard output of this Python in a new process."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def print_imports(repeats):
    times = {name: [] for name in COMMANDS}
    for repeat in range(repeats + 1):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            run(*arguments)
            if repeat:  # the first one fills the disk's cache
                times[name].append(time.perf_counter() - start)
    print("| new process | s | range |\n|---|---|---|")
    for name, found in times.items():
        print(f"| {name} | {statistics.median(found):.2f} | {spread(found)} |", flush=True)


def spread(values):
    return f"{min(values):.2f}-{max(values):.2f}"


def private_megabytes(pid):
    """The memory of a process that it does not share with others."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def first_batch(side, folder):
    """Seconds to the first batch and the memory in MB, in this process."""
    import multiprocessing

    from detectron2.config import get_cfg
    from detectron2.data import build_detection_train_loader
    from detectron2.data.datasets import register_coco_instances

    from mrcnn_plugin import add_mrcnn_config
    from mrcnn_plugin.engine import check_data
    from mrcnn_plugin.engine.train_loader import build_train_loader

    cfg = get_cfg()
    add_mrcnn_config(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("generated",), ()
    cfg.DATASETS.CHECK = side == "ours"
    cfg.MODEL.MASK_ON, cfg.MODEL.ROI_HEADS.NUM_CLASSES = True, 80
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 2, NUM_WORKERS
    cfg.OUTPUT_DIR = str(Path(folder, "output"))
    register_coco_instances("generated", {}, f"{folder}/instances.json", f"{folder}/images")
    start = time.perf_counter()
    if side == "detectron2":
        batches = iter(build_detection_train_loader(cfg))
    else:
        check_data(cfg, training=True)
        batches = iter(build_train_loader(cfg))
    assert len(next(batches)) == 2
    seconds = time.perf_counter() - start
    workers = [private_megabytes(child.pid) for child in multiprocessing.active_children()]
    assert len(workers) == NUM_WORKERS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "main": peak, "worker": statistics.mean(workers)}


def print_first_batches(args):
    from data_check import make

    images = args.images or (1000 if args.quick else 118_287)
    annotations = args.annotations or (8000 if args.quick else 860_001)
    with tempfile.TemporaryDirectory() as folder:
        file = make(Path(folder), images, annotations)
        size = file.stat().st_size / 1e6
        print(f"\n{images} images, {annotations} annotations, {size:.0f} MB of json\n")
        print("| first batch | s | range | main process, MB | per worker, MB |")
        print("|---|---|---|---|---|")
        found = {side: [] for side in SIDES}
        for _ in range(1 if args.quick else args.repeats):
            for side in SIDES:
                output = run(__file__, "--side", side, "--folder", folder)
                found[side].append(json.loads(output.splitlines()[-1]))
    for side, runs in found.items():
        seconds, main, worker = (
            statistics.median(one[key] for one in runs) for key in ("seconds", "main", "worker")
        )
        times = spread([one["seconds"] for one in runs])
        print(f"| {side} | {seconds:.2f} | {times} | {main:.0f} | {worker:.0f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1000 images and one repeat")
    parser.add_argument("--images", type=int, help="118,287 by default, as in COCO")
    parser.add_argument("--annotations", type=int, help="860,001 by default, as in COCO")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print("\n" + json.dumps(first_batch(args.side, args.folder)))
        return
    from timing import machine

    print(f"{machine('cpu')}.\n", flush=True)
    print_imports(1 if args.quick else args.repeats)
    print_first_batches(args)


if __name__ == "__main__":
    main()
