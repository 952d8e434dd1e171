"""Writes scalars to Weights & Biases."""

from pathlib import Path

import yaml
from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

from ...errors import RunError

_WINDOW = 20  # noisy scalars are medians of this many iterations


class WandbWriter(EventWriter):
    """Writes what detectron2 writes to TensorBoard, as a run of `WANDB_PROJECT`.

    W&B's own settings hold: `WANDB_MODE=offline` needs no network and no account, `wandb login`
    comes before the first run on line.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: of the run; all of it becomes the run's config at W&B.

        Raises:
            RunError: wandb is not installed.
        """
        try:
            import wandb
        except ImportError as error:
            raise RunError(
                f"WANDB_PROJECT is '{cfg.WANDB_PROJECT}', but wandb is not installed. Run `pip "
                "install wandb`, or set WANDB_PROJECT to ''."
            ) from error
        Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=cfg.WANDB_PROJECT,
            name=Path(cfg.OUTPUT_DIR).resolve().name,
            dir=cfg.OUTPUT_DIR,
            config=yaml.safe_load(cfg.dump()),
        )
        self._last_write = -1

    def write(self):
        """Write the scalars that are new since the last call, each with its iteration."""
        by_iteration: dict[int, dict[str, float]] = {}
        latest = get_event_storage().latest_with_smoothing_hint(_WINDOW)
        for name, (value, iteration) in latest.items():
            if iteration > self._last_write:
                by_iteration.setdefault(iteration, {})[name] = value
        for iteration in sorted(by_iteration):
            self._run.log(by_iteration[iteration], step=iteration)
            self._last_write = iteration

    def close(self):
        self._run.finish()
