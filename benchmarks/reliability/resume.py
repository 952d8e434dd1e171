"""Kills a training again and again, resumes it each time, and compares it with an undisturbed one.

A tiny model trains on drawn shapes with averaged weights, gradient accumulation, validation loss,
best weights and early stopping. The moments of the signals are drawn with a seed: after some time,
at a write to a checkpoint, or in an evaluation. The same command is started again each time. In the
end the losses of all iterations and everything in model_final.pth must be bit-identical.
"""

import random
import signal
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

from mrcnn_plugin.checkpoint.files import damage

from . import _training

NUM_KILLS = 20
OPTS = ("SOLVER.MAX_ITER", 40, "SOLVER.STEPS", (20,))


def draw_moment(rng: random.Random, number: int) -> tuple[str, partial]:
    """A kind of moment, and the function that arranges for a signal at such a moment."""
    kind = rng.choice(("iteration", "checkpoint write", "evaluation"))
    if kind == "iteration":
        return kind, partial(_training.kill_at_time, rng.uniform(0.5, 2.5), number)
    if kind == "checkpoint write":
        return kind, partial(_training.kill_in_checkpoint, rng.randint(1, 1500), number)
    return kind, partial(_training.kill_in_evaluation, rng.randint(1, 8), number)


def disturbed_run(output: Path, *opts, number: int, times: int, seed: int) -> list[tuple[str, int]]:
    """Disturb a run until it has finished; returns the kind and exit status of each start.

    Args:
        output: OUTPUT_DIR.
        opts: config keys and values.
        number: the signal.
        times: how often to send it at most. The last start is not disturbed.
        seed: of the moments.
    """
    rng = random.Random(seed)
    starts = []
    for _ in range(times):
        kind, disturb = draw_moment(rng, number)
        starts.append((kind, _training.finish(_training.start(output, *opts, disturb=disturb))))
    starts.append(("none", _training.finish(_training.start(output, *opts))))
    return starts


def compare(output: Path, reference: Path) -> tuple[int, int]:
    """(iterations whose losses differ, values of the final checkpoint that differ) of two runs."""
    losses, expected = _training.losses(output), _training.losses(reference)
    different = sum(losses.get(i) != expected[i] for i in expected)
    return different, len(
        _training.differences(_training.final(output), _training.final(reference))
    )


def row(name: str, folder: Path, reference: Path, *opts, number: int, times: int) -> str:
    starts = disturbed_run(folder, *OPTS, *opts, number=number, times=times, seed=len(name))
    kinds = Counter(kind for kind, status in starts if status != 0)
    statuses = sorted({status for kind, status in starts if kind != "none" and status != 0})
    moments = ", ".join(f"{count} in {kind}" for kind, count in sorted(kinds.items()))
    losses, values = compare(folder, reference)
    half = sum(damage(file) is not None for file in folder.glob("*.pth"))
    ends = ", ".join(map(str, statuses))
    return f"| {name} | {moments} | {ends} | {losses} | {values} | {half} |"


def table() -> str:
    lines = [
        "| run | signals | exit status | iterations that differ | final values that differ | half "
        "files |\n|---|---|---|---|---|---|"
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _training.register_drawings(folder)
        reference = folder / "undisturbed"
        if _training.finish(_training.start(reference, *OPTS)):
            raise RuntimeError((reference / "printed.txt").read_text()[-2000:])
        for workers in (0, 2):
            opts = ("DATALOADER.NUM_WORKERS", workers)
            for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
                times = NUM_KILLS if number == signal.SIGKILL else 5
                name = f"{signal.Signals(number).name}, {workers} workers"
                lines.append(row(name, folder / name, reference, *opts, number=number, times=times))
    return "\n".join(lines)
