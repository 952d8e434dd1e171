"""The learning rate that belongs to a batch size (the linear scaling rule)."""

import logging
from dataclasses import dataclass

from detectron2.config import CfgNode

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LearningRate:
    """A learning rate and the batch, in images of all processes, that it is meant for."""

    base_lr: float
    ims_per_batch: int

    @classmethod
    def of(cls, cfg: CfgNode) -> "LearningRate":
        return cls(cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH)

    def scaled_to(self, ims_per_batch: int) -> float:
        """0.02 for 16 images is 0.0025 for 2."""
        return self.base_lr * ims_per_batch / self.ims_per_batch


def fit_learning_rate(cfg: CfgNode, reference: LearningRate, *, scale: bool) -> None:
    """Scale `SOLVER.BASE_LR` to the batch size, or warn when it is more than 2x from it.

    Args:
        cfg: the config after command-line overrides; changed in place when `scale`.
        reference: what the config file itself says.
        scale: `--auto-scale-lr`.

    Raises:
        ValueError: `scale`, and `SOLVER.BASE_LR` was overridden as well.
    """
    now = LearningRate.of(cfg)
    fitting = reference.scaled_to(now.ims_per_batch)
    rule = f"the config file has {reference.base_lr:g} for {reference.ims_per_batch} images"
    if scale:
        if now.base_lr != reference.base_lr:
            raise ValueError(
                f"--auto-scale-lr and SOLVER.BASE_LR {now.base_lr:g} were both given: leave one out"
            )
        cfg.SOLVER.BASE_LR = fitting
        logger.info(f"SOLVER.BASE_LR is {fitting:g} for {now.ims_per_batch} images: {rule}")
    elif not 0.5 <= now.base_lr / fitting <= 2:
        logger.warning(
            f"SOLVER.BASE_LR {now.base_lr:g} for {now.ims_per_batch} images an iteration is "
            f"{now.base_lr / fitting:.3g} times what belongs to them: {rule}, so {fitting:g} here. "
            "Give --auto-scale-lr or SOLVER.BASE_LR; losses that become NaN often begin so"
        )
