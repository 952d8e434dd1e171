"""Writes scalars to Weights & Biases."""

from pathlib import Path

from detectron2.utils.events import EventWriter, get_event_storage

from ...errors import RunError

_WINDOW = 20  # noisy scalars are medians of this many iterations


class WandbWriter(EventWriter):
    """Writes the scalars that detectron2 writes to TensorBoard, as a run at Weights & Biases.

    W&B's own settings apply: `WANDB_MODE=offline` needs neither a network nor an account. Otherwise
    run `wandb login` before the first run.
    """

    def __init__(self, *, project: str, output_dir: str, config: dict):
        """
        Args:
            project: `WANDB_PROJECT`.
            output_dir: `OUTPUT_DIR`. Its last part becomes the name of the run.
            config: the config of the run, for W&B.

        Raises:
            RunError: wandb is not installed.
        """
        try:
            import wandb
        except ImportError as error:
            raise RunError(
                f"WANDB_PROJECT is '{project}', but wandb is not installed. Run `pip "
                "install wandb`, or set WANDB_PROJECT to ''."
            ) from error
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=project, name=Path(output_dir).resolve().name, dir=output_dir, config=config
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
