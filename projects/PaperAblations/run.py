#!/usr/bin/env python3
"""Runs rows of Table 2 of Mask R-CNN over seeds, and writes one table and one plot.

Finished runs are skipped and interrupted runs are resumed.

    run.py --arms '2c_*' --seeds 1 2 3 --num-gpus 8              on COCO, the paper's schedule
    run.py --arms '2[bc]_*' --seeds 1 2 3 --shapes SOLVER.MAX_ITER 600      small, on a CPU

An arm is a file in configs/. With --shapes, its own lines (without its base) are merged into
configs/mask_rcnn_shapes_C4.yaml, a small net on drawn shapes. This works for the arms on C4.
"""

import argparse
import json
import multiprocessing
import sys
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import yaml
from detectron2.config import CfgNode
from detectron2.utils import comm
from matplotlib.figure import Figure

PROJECT = Path(__file__).resolve().parent
sys.path.insert(0, str(PROJECT))

from paper_ablations import add_paper_ablations_config  # noqa: E402

from mrcnn_plugin.data import register_datasets  # noqa: E402
from mrcnn_plugin.engine import (  # noqa: E402
    MRCNNTrainer,
    check_inputs,
    load_config,
    log_and_seed,
    merge_config,
    save_config,
    start_logging,
    use_available_device,
)
from mrcnn_plugin.engine.launch import launch  # noqa: E402
from mrcnn_plugin.errors import one_sentence  # noqa: E402

SHAPES = PROJECT.parents[1] / "configs/mask_rcnn_shapes_C4.yaml"

# Mask AP, Mask R-CNN (arXiv 1703.06870), Table 2 and Sec. 4.2.
PUBLISHED = {
    "2a_R50_C4": 30.3,
    "2a_R101_C4": 32.7,
    "2a_R50_FPN": 33.6,
    "2a_R101_FPN": 35.4,
    "2a_X101_FPN": 36.7,
    "2b_softmax": 24.8,
    "2b_sigmoid": 30.3,
    "2b_class_agnostic": 29.7,
    "2b_class_specific": 30.3,
    "2c_roipool_max": 26.9,
    "2c_roiwarp_max": 27.2,
    "2c_roiwarp_ave": 27.1,
    "2c_roialign_max": 30.2,
    "2c_roialign_ave": 30.3,
    "2d_roipool": 23.6,
    "2d_roialign": 30.9,
    "2e_mlp_2fc": 31.5,
    "2e_mlp_3fc": 31.5,
    "2e_fcn": 33.6,
}


def all_arms():
    paths = (PROJECT / "configs").glob("*.yaml")
    return sorted(path.stem for path in paths if not path.stem.startswith("Base-"))


def arm_cfg(arm: str, *, shapes: bool, opts=()) -> CfgNode:
    """The config of an arm, or with `shapes` its own lines on the small net for drawn shapes."""
    path = PROJECT / f"configs/{arm}.yaml"
    cfg = load_config(str(SHAPES if shapes else path), add_keys=add_paper_ablations_config)
    if shapes:
        own_lines = yaml.safe_load(path.read_text())
        own_lines.pop("_BASE_")
        cfg.merge_from_other_cfg(CfgNode(own_lines))
    merge_config(cfg, opts=opts)
    return cfg


def train(args) -> None:
    """Train and evaluate `args.arm` with `args.seed` and write `result.json`.

    Runs in each process.
    """
    output = args.run_output
    cfg = arm_cfg(args.arm, shapes=args.shapes, opts=args.opts)
    cfg.merge_from_list(["SEED", args.seed, "OUTPUT_DIR", str(output), "TEST.EVAL_PERIOD", 0])
    use_available_device(cfg)
    cfg.freeze()
    start_logging(cfg.OUTPUT_DIR)
    log_and_seed(cfg, args)
    register_datasets(cfg)
    check_inputs(cfg, training=True)
    save_config(cfg)
    trainer = MRCNNTrainer(cfg)
    trainer.resume_or_load(resume=True)
    finished = trainer.start_iter >= trainer.max_iter  # but its results were not written
    results = trainer.evaluate() if finished else trainer.train()
    if comm.is_main_process():
        (output / "result.json").write_text(json.dumps(results, indent=1))


def run_all(args, arms) -> None:
    jobs = [(arm, seed) for seed in args.seeds for arm in arms]  # a first table after one seed
    for number, (arm, seed) in enumerate(jobs, start=1):
        output = Path(args.output) / arm / f"seed{seed}"
        if not (output / "result.json").exists():
            print(f"ablations: {number} of {len(jobs)}: {arm}, seed {seed}", flush=True)
            _in_new_process(args, arm, seed, output)
        report(Path(args.output), arms)


def _in_new_process(args, arm: str, seed: int, output: Path) -> None:
    """Each run has a new process, so that logging and random state start afresh."""
    args = argparse.Namespace(**vars(args), arm=arm, seed=seed, run_output=output)
    process = multiprocessing.get_context("spawn").Process(target=_launch, args=(args,))
    process.start()
    process.join()
    if process.exitcode != 0:
        sys.exit(f"run.py: {arm}, seed {seed} failed. Run the command again to resume it.")


def _launch(args) -> None:
    sys.exit(one_sentence("run.py", lambda args: launch(train, args), args))


def collect(output: Path, arms) -> dict[str, list[float]]:
    """Arm -> segm AP of each finished seed."""
    done = {arm: sorted((output / arm).glob("seed*/result.json")) for arm in arms}
    return {
        arm: [json.loads(path.read_text())["segm"]["AP"] for path in paths]
        for arm, paths in done.items()
    }


def table(results: dict[str, list[float]]) -> str:
    """A Markdown table: arm, published AP, our mean and sample standard deviation, the seeds."""
    lines = ["| arm | paper, COCO | ours, mean | spread | seeds |", "|---|---|---|---|---|"]
    for arm, aps in results.items():
        if not aps:
            lines.append(f"| {arm} | {PUBLISHED[arm]} | not yet run | | |")
            continue
        spread = f"{np.std(aps, ddof=1):.1f}" if len(aps) > 1 else ""
        seeds = ", ".join(f"{ap:.1f}" for ap in aps)
        lines.append(f"| {arm} | {PUBLISHED[arm]} | {np.mean(aps):.1f} | {spread} | {seeds} |")
    return "\n".join(lines) + "\n"


def report(output: Path, arms) -> None:
    """Write `table.md` and `plot.png`, which shows each seed as a dot and the mean as a bar."""
    results = {arm: aps for arm, aps in collect(output, arms).items() if aps}
    (output / "table.md").write_text(table(results))
    figure = Figure(figsize=(8, 1 + 0.45 * len(results)), layout="constrained")
    axes = figure.subplots()
    for row, aps in enumerate(results.values()):
        axes.plot([np.mean(aps)] * 2, [row - 0.3, row + 0.3], color="tab:blue", linewidth=3)
        axes.plot(aps, [row] * len(aps), "o", color="black", markersize=4)
    axes.set(yticks=range(len(results)), yticklabels=list(results), xlabel="segm AP")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(output / "plot.png", dpi=100)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", default=["*"], help="names or patterns of configs/")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--shapes", action="store_true", help="small nets on drawn shapes")
    parser.add_argument("--num-gpus", type=int, default=1)
    parser.add_argument("--output", default="output/ablations")
    parser.add_argument("opts", nargs="*", help="KEY VALUE overrides of every config")
    parser.set_defaults(eval_only=False, num_machines=1, machine_rank=0, dist_url="auto")
    args = parser.parse_args()

    arms = [arm for arm in all_arms() if any(fnmatch(arm, p) for p in args.arms)]
    if not arms:
        sys.exit(f"run.py: no arm matches {args.arms}; expected some of {', '.join(all_arms())}")
    run_all(args, arms)
    print((Path(args.output) / "table.md").read_text())
    print(f"ablations: {Path(args.output).resolve()}/table.md and plot.png")


if __name__ == "__main__":
    main()
