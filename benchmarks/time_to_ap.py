#!/usr/bin/env python3
"""Measures minutes of training until an accuracy: `python benchmarks/time_to_ap.py`.

Trains one small network on the data of the demo (`configs/mask_rcnn_shapes_C4.yaml`) with

* detectron2: its ResNet, RPN, Res5ROIHeads, ROIAlign and DefaultTrainer,
* this plugin in float32: the same function and losses from its own parts,
* this plugin in bfloat16 (`SOLVER.AMP.ENABLED True` on a CPU),

once per seed, each in a process of its own, in turns. Every run is evaluated on `shapes_val` every
--period iterations. The clock stands still during an evaluation. A run that is finished is not
repeated, so a stopped benchmark continues. Prints a Markdown table and draws --figure.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

NAMES = {
    "detectron2": "detectron2, float32",
    "float32": "mrcnn_plugin, float32",
    "bfloat16": "mrcnn_plugin, bfloat16",
}
# A ResNet-50-C4 with a quarter of the channels, and detectron2's head and losses. detectron2 cannot
# build the ResNet-18 of the demo.
NETWORK = (
    *("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 16, "MODEL.RPN.HEAD_NAME", "StandardRPNHead"),
    *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14, "MODEL.MRCNN.RES5_STRIDE", 2),
    *("MODEL.MRCNN.RPN_LAMBDA", 1.0, "MODEL.MRCNN.RPN_N_REG", 64.0),
)
STOCK = (
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.PROPOSAL_GENERATOR.NAME", "RPN"),
    *("MODEL.ROI_HEADS.NAME", "Res5ROIHeads"),
    *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
)


def config(side: str, folder: Path, seed: int, iterations: int):
    """The config of a run."""
    from mrcnn_plugin.engine.config_loading import load_config

    cfg = load_config(str(ROOT / "configs/mask_rcnn_shapes_C4.yaml"))
    cfg.merge_from_list(["SEED", seed, "OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", iterations])
    cfg.merge_from_list(["TEST.EVAL_PERIOD", 0, "TEST.REPORT", False])
    cfg.merge_from_list(["SOLVER.CHECKPOINT_PERIOD", iterations, *NETWORK])
    if side == "detectron2":
        cfg.merge_from_list(list(STOCK))
    cfg.SOLVER.AMP.ENABLED = side == "bfloat16"
    cfg.freeze()
    return cfg


def train_once(side: str, folder: Path, seed: int, iterations: int, period: int) -> list[dict]:
    """Train in this process; returns {iteration, minutes, box AP, segm AP} per evaluation."""
    from detectron2.engine import DefaultTrainer, HookBase
    from detectron2.evaluation import COCOEvaluator
    from detectron2.utils.env import seed_all_rng

    from mrcnn_plugin.data.builtin import draw_shapes, register_builtin_datasets
    from mrcnn_plugin.engine import MRCNNTrainer

    class Clock(HookBase):
        """Evaluates with detectron2's evaluator and counts the seconds of everything else."""

        def __init__(self, cfg):
            self.cfg, self.elapsed, self.results = cfg, 0.0, []

        def before_train(self):
            self.start = time.perf_counter()

        def after_step(self):
            done = self.trainer.iter + 1
            if done % period and done != iterations:
                return
            self.elapsed += time.perf_counter() - self.start
            name = self.cfg.DATASETS.TEST[0]
            results = self.trainer.test(
                self.cfg, self.trainer.model, [COCOEvaluator(name, output_dir=str(folder))]
            )
            ap = {kind: results[kind]["AP"] for kind in ("bbox", "segm")}
            self.results.append({"iteration": done, "minutes": self.elapsed / 60, **ap})
            print(side, seed, self.results[-1], flush=True)
            self.start = time.perf_counter()

    seed_all_rng(seed)
    cfg = config(side, folder, seed, iterations)
    register_builtin_datasets()
    draw_shapes(cfg.DATASETS.TRAIN + cfg.DATASETS.TEST)
    trainer = (DefaultTrainer if side == "detectron2" else MRCNNTrainer)(cfg)
    clock = Clock(cfg)
    trainer.register_hooks([clock])
    trainer.train()
    return clock.results


def minutes_to(results: list[dict], ap: float) -> float | None:
    """Minutes until segm AP `ap`, interpolated between two evaluations; None if never reached."""
    before = {"minutes": 0.0, "segm": 0.0}
    for now in results:
        if now["segm"] >= ap:
            share = (ap - before["segm"]) / (now["segm"] - before["segm"])
            return before["minutes"] + share * (now["minutes"] - before["minutes"])
        before = now
    return None


def table(runs: dict[str, list[list[dict]]], ap: float) -> str:
    """One row per side: the median over seeds, with the smallest and largest in brackets."""

    def spread(values: list[float | None], digits: int) -> str:
        if None in values:
            return f"not reached by {values.count(None)} of {len(values)} runs"
        low, middle, high = min(values), statistics.median(values), max(values)
        text = f"{middle:.{digits}f}"
        return text + (f" ({low:.{digits}f}-{high:.{digits}f})" if len(values) > 1 else "")

    rows = [
        f"| | minutes to segm AP {ap:g} | ratio | minutes in all | segm AP | box AP |",
        "|---|---|---|---|---|---|",
    ]
    reached = {side: [minutes_to(run, ap) for run in side_runs] for side, side_runs in runs.items()}
    stock = reached.get("detectron2", [None])
    for side, side_runs in runs.items():
        ratio = "-"
        if None not in stock + reached[side]:
            ratio = f"{statistics.median(stock) / statistics.median(reached[side]):.2f}"
        last = [run[-1] for run in side_runs]
        columns = [
            spread([run["minutes"] for run in last], 1),
            *(spread([run[kind] for run in last], 1) for kind in ("segm", "bbox")),
        ]
        rows.append(
            f"| {NAMES[side]} | {spread(reached[side], 1)} | {ratio} | {' | '.join(columns)} |"
        )
    return "\n".join(rows)


def draw(runs: dict[str, list[list[dict]]], path: Path) -> None:
    """Segm AP over minutes of training, one line per run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for color, (side, side_runs) in zip(("#6b7280", "#2563eb", "#059669"), runs.items()):
        for index, run in enumerate(side_runs):
            minutes, aps = zip(*[(0, 0)] + [(r["minutes"], r["segm"]) for r in run])
            label = NAMES[side] if index == 0 else None
            axes.plot(minutes, aps, color=color, label=label, linewidth=1.6, alpha=0.85)
    axes.set(xlabel="minutes of training", ylabel="segm AP (%)", xlim=(0, None), ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eef0f3")
    axes.legend(frameon=False, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs per side (default 3)")
    parser.add_argument("--iterations", type=int, default=1800)
    parser.add_argument("--period", type=int, default=150, help="iterations between evaluations")
    parser.add_argument("--ap", type=float, default=50, help="the segm AP to reach (default 50)")
    parser.add_argument("--sides", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--out", type=Path, default=Path("output/time_to_ap"))
    parser.add_argument("--figure", type=Path, help="draw the curves into this file")
    parser.add_argument("--run", nargs=2, metavar=("SIDE", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()

    def result_file(side: str, seed: int) -> Path:
        return args.out / f"{side}_seed{seed}_{args.iterations}.json"

    if args.run:
        side, seed = args.run[0], int(args.run[1])
        file = result_file(side, seed)
        results = train_once(side, file.with_suffix(""), seed, args.iterations, args.period)
        file.write_text(json.dumps(results))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in range(1, args.seeds + 1):
        for side in args.sides:
            if not result_file(side, seed).exists():
                options = ["--iterations", str(args.iterations), "--period", str(args.period)]
                options += ["--out", str(args.out), "--run", side, str(seed)]
                subprocess.run([sys.executable, __file__, *options], check=True)
    seeds = range(1, args.seeds + 1)
    runs = {
        side: [json.loads(result_file(side, seed).read_text()) for seed in seeds]
        for side in args.sides
    }
    from benchmarks.timing import machine

    print(f"\n{machine('cpu')}\n\n{table(runs, args.ap)}")
    if args.figure:
        draw(runs, args.figure)


if __name__ == "__main__":
    main()
