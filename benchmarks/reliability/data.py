"""Faults in the data: what `mrcnn dataset check` and the loader of the training answer.

Every row makes one fault in a dataset of three images and runs `mrcnn dataset check` on it, with
`--full` if it finds nothing otherwise. A fault of an image file is also given to detectron2's
`DatasetMapper` in a `ReportingMapper`, as a training with `--no-check` would read it. Each row runs
in its own process with 2 GB of memory and 60 seconds. The columns s and MB are the time and the
peak memory of that process, without the import of its libraries.
"""

import contextlib
import io
import json
import multiprocessing
import queue
import resource
import tempfile
import time
from pathlib import Path

from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode

from benchmarks.reliability._data_faults import IN_IMAGE, IN_JSON, TEXTS, good_content, save_images
from mrcnn_plugin.cli.dataset import main as dataset_command
from mrcnn_plugin.data.reading import ImageError, ReportingMapper

_MEMORY = 2 * 2**30  # bytes, on top of what the libraries have mapped
_SECONDS = 60


def table() -> str:
    """One row per fault: what the check and the loader answer, seconds and MB."""
    lines = ["| fault | found by | answer | s | MB |", "|---|---|---|---|---|"]
    lines += [_row(name, damage, loads=False) for name, damage in IN_JSON.items()]
    lines += [_row(name, text, loads=False) for name, text in TEXTS.items()]
    lines += ["", "| image file | found by | answer | loader, without a check | s | MB |"]
    lines += ["|---|---|---|---|---|---|"]
    lines += [_row(name, damage, loads=True) for name, damage in IN_IMAGE.items()]
    return "\n".join(lines)


def _row(name: str, damage, *, loads: bool) -> str:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        json_file, images = _make(Path(folder), damage)
        found_by, answer, loaded, seconds, megabytes = _in_process(
            _answers, json_file, images, loads
        )
        cells = [name, found_by, answer, *([loaded] if loads else [])]
        cells = [cell.replace(folder, "").replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(cells)} | {seconds:.1f} | {megabytes:.0f} |"


def _make(root: Path, damage) -> tuple[Path, Path]:
    """Write the damaged dataset: (json, directory of the images)."""
    content, json_file, images = good_content(), root / "data.json", root / "images"
    images.mkdir()
    save_images(content, images)
    if isinstance(damage, str):
        json_file.write_text(damage)
    else:
        damage(content, images / "2.png")
        json_file.write_text(json.dumps(content))
    return json_file, images


def _in_process(function, *arguments) -> tuple[str, str, str, float, float]:
    """Call a function in a bounded process; a process that dies is an answer as well."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=_bounded, args=(results, function, *arguments))
    start = time.perf_counter()
    process.start()
    try:
        return results.get(timeout=_SECONDS)
    except queue.Empty:
        process.kill()
        return "nothing", f"no answer in {_SECONDS} s", "", time.perf_counter() - start, 0.0
    finally:
        process.join()


def _bounded(results, function, *arguments) -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + _MEMORY,) * 2)
    before, start = _peak(), time.perf_counter()
    answers = function(*arguments)
    results.put((*answers, time.perf_counter() - start, _peak() - before))


def _peak() -> float:
    """The largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _answers(json_file: Path, images: Path, loads: bool) -> tuple[str, str, str]:
    """(what found the fault, the first finding, what the loader did)."""
    loaded = _load(json_file, images) if loads else ""
    for options in ([], ["--full"]):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            status = dataset_command(["check", f"{json_file}:{images}", *options])
        lines = output.getvalue().splitlines()
        by = " ".join(["check", *options])
        if isinstance(status, str):
            return by, f"error: {_shorten(status.removeprefix('mrcnn dataset: '))}", loaded
        if len(lines) > 1:
            finding = lines[1].split(": ", 1)[1]
            return by, f"{lines[0].split(' (')[0]}: {_shorten(finding)}", loaded
    return "", "accepted", loaded


def _load(json_file: Path, images: Path) -> str:
    """What a training without a check makes of the second image."""
    content = json.loads(json_file.read_text())
    image, annotation = content["images"][1], content["annotations"][1]
    record = {
        **image,
        "file_name": str(images / image["file_name"]),
        "image_id": image["id"],
        "annotations": [{**annotation, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}],
    }
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    try:
        mapped = ReportingMapper(DatasetMapper(cfg, is_train=False))(record)
    except ImageError as error:
        cause = str(error).split("): ", 1)[1].split(". Repair")[0]
        return f"error: {_shorten(cause)}"
    return f"read, {mapped['image'].float().std():.0f} grey levels of standard deviation"


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 110 else text[:107] + "..."
