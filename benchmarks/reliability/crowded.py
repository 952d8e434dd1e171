"""Measures training steps on images with 10 to 3,000 objects: ours, and detectron2's matching.

The model is the paper's on a narrow ResNet-18, so that matching and masks take most of the time.
Its image has 800 x 800 pixels and 37,500 anchors, and up to 2,000 proposals go to the ROI heads.
Each step runs in a process of its own, so that its peak memory is that of the case. The process
measures either this package or the same model with detectron2's `label_and_sample_anchors` and
`label_and_sample_proposals`. Weights, input and random numbers are the same, and so have to be all
losses. The time is that of the fastest step after the first.

Two smaller tables compare matching within one process, alternately, and measure the memory that a
data loader needs to build the masks of an image.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data.detection_utils import annotations_to_instances, filter_empty_instances
from detectron2.modeling import build_model
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks, pairwise_iou
from detectron2.utils.events import EventStorage

from benchmarks.timing import HEADER, compare
from mrcnn_plugin import MRCNNRPN, MRCNNRes5ROIHeads, add_mrcnn_config, get_config_file
from mrcnn_plugin.modeling.matching import match_boxes

ROOT = Path(__file__).resolve().parents[2]
SIDE = 800
OBJECTS = (10, 300, 3000)
MIN_SECONDS = 2  # a process repeats its step for this long, and at least once after the first
TINY = (
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT", 0),
    *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.NORM", "BN", "MODEL.ROI_HEADS.NUM_CLASSES", 3),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 16),
)


def tiny_model() -> torch.nn.Module:
    cfg = get_cfg()
    add_mrcnn_config(cfg)
    cfg.merge_from_file(get_config_file("mask_rcnn_R101_C4.yaml"))
    cfg.merge_from_list(list(TINY))
    return build_model(cfg).train()


def draw_boxes(count: int) -> torch.Tensor:
    """(count, 4) boxes of 8 to 40 pixels, anywhere in the image."""
    corner = torch.rand(count, 2) * (SIDE - 40)
    return torch.cat([corner, corner + 8 + torch.rand(count, 2) * 32], dim=1).floor()


def rectangles(boxes: torch.Tensor) -> list[list[np.ndarray]]:
    """The outline of each box as the polygons of an object."""
    corners = boxes.double().numpy()[:, [0, 1, 2, 1, 2, 3, 0, 3]]
    return [[np.ascontiguousarray(polygon)] for polygon in corners]


def crowd(count: int, masks: str) -> list[dict]:
    """An image of noise with `count` rectangles, as detectron2's mapper returns it."""
    boxes = draw_boxes(count)
    instances = Instances((SIDE, SIDE), gt_boxes=Boxes(boxes))
    instances.gt_classes = torch.randint(3, (count,))
    if masks == "polygon":
        instances.gt_masks = PolygonMasks(rectangles(boxes))
    else:
        bitmasks = torch.empty(count, SIDE, SIDE, dtype=torch.bool)
        bitmasks.fill_(False)  # unlike zeros(), it writes to every page
        for mask, (x1, y1, x2, y2) in zip(bitmasks, boxes.int().tolist()):
            mask[y1:y2, x1:x2] = True
        instances.gt_masks = BitMasks(bitmasks)
    image = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
    return [{"image": image, "instances": instances, "height": SIDE, "width": SIDE}]


def megabytes(key: str) -> float:
    """`VmRSS` (now) or `VmHWM` (the peak) of this process, in units of 10^6 bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(key))


def step_case(count: int, masks: str, side: str) -> dict:
    """Time, memory and losses of training steps on one image, in this process."""
    if side == "detectron2":
        MRCNNRPN.label_and_sample_anchors = RPN.label_and_sample_anchors
        MRCNNRes5ROIHeads.label_and_sample_proposals = ROIHeads.label_and_sample_proposals
    torch.manual_seed(0)
    model, batch = tiny_model(), crowd(count, masks)
    before, seconds = megabytes("VmRSS"), []
    while len(seconds) < 2 or sum(seconds) < MIN_SECONDS:
        torch.manual_seed(1)
        start = time.perf_counter()
        with EventStorage():
            losses = model(batch)
        sum(losses.values()).backward()
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 1:
            first_losses = {name: loss.item().hex() for name, loss in losses.items()}
    peak = megabytes("VmHWM")
    return {"before": before, "seconds": min(seconds[1:]), "peak": peak, "losses": first_losses}


def load_case(count: int, masks: str) -> dict:
    """Time and memory of what detectron2's mapper does with the polygons of one image."""
    boxes = draw_boxes(count)
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "segmentation": polygons}
        for box, polygons in zip(boxes.tolist(), rectangles(boxes))
    ]
    before, start = megabytes("VmRSS"), time.perf_counter()
    instances = annotations_to_instances(annotations, (SIDE, SIDE), mask_format=masks)
    filter_empty_instances(instances)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "growth": megabytes("VmHWM") - before}


def in_new_process(*case) -> dict:
    """The result of `step_case` or `load_case` with the given arguments, in a process of its own.

    Raises:
        RuntimeError: the process failed, for example because it was killed for its memory.
    """
    command = [sys.executable, "-m", "benchmarks.reliability.crowded", *map(str, case)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def step_row(count: int, masks: str) -> str:
    """Both sides; small cases twice in the order A B B A, because the load of a machine changes."""
    order = ("detectron2", "ours") if count > 1000 else ("detectron2", "ours", "ours", "detectron2")
    runs = [(side, in_new_process("step", count, masks, side)) for side in order]
    cells = [count, masks, f"{runs[0][1]['before']:.0f}"]
    for key, digits in (("peak", 0), ("seconds", 2)):
        for side in ("detectron2", "ours"):
            best = min(run[key] for name, run in runs if name == side)
            cells.append(f"{best:.{digits}f}")
    losses = [run["losses"] for _, run in runs]
    cells.append("bit-identical" if all(run == losses[0] for run in losses) else "DIFFERENT")
    return f"| {' | '.join(map(str, cells))} |"


def step_table() -> str:
    lines = [
        "| objects | masks | MB before the step | peak MB, detectron2 | ours | s, detectron2 "
        "| ours | losses |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [step_row(count, masks) for masks in ("polygon", "bitmask") for count in OBJECTS]
    return "\n".join(lines)


def matching_table() -> str:
    """Ours and detectron2's on the same boxes: anchors of the RPN, then proposals."""
    torch.manual_seed(0)
    model = tiny_model()
    anchors = model.proposal_generator.anchor_generator([torch.zeros(1, 1, SIDE // 16, SIDE // 16)])
    lines = [HEADER.format("detectron2", "ours")]
    for count in OBJECTS:
        objects = Boxes(draw_boxes(count))
        cases = {
            "anchors": (model.proposal_generator.anchor_matcher, Boxes.cat(anchors)),
            "proposals": (model.roi_heads.proposal_matcher, Boxes(draw_boxes(2000 + count))),
        }
        for name, (matcher, boxes) in cases.items():
            case = f"{count} objects, {len(boxes)} {name}"
            lines.append(matching_row(case, matcher, objects, boxes))
    return "\n".join(lines)


def matching_row(name: str, matcher: Matcher, objects: Boxes, boxes: Boxes) -> str:
    result = compare(
        lambda: matcher(pairwise_iou(objects, boxes)),
        lambda: match_boxes(matcher, objects, boxes),
        repeats=3 if len(objects) > 1000 else 15,
        device="cpu",
    )
    return result.row(name)


def load_table() -> str:
    lines = [
        "| objects | INPUT.MASK_FORMAT | s | MB in the loader | MB per object |",
        "|---|---|---|---|---|",
    ]
    for count, masks in ((3000, "polygon"), (300, "bitmask"), (600, "bitmask")):
        case = in_new_process("load", count, masks)
        growth = case["growth"]
        lines.append(
            f"| {count} | {masks} | {case['seconds']:.2f} | {growth:.0f} | {growth / count:.3f} |"
        )
    return "\n".join(lines)


def table() -> str:
    return "\n\n".join([step_table(), matching_table(), load_table()])


if __name__ == "__main__":
    kind, number, *rest = sys.argv[1:]
    run_case = {"step": step_case, "load": load_case}[kind]
    print(json.dumps(run_case(int(number), *rest)))
