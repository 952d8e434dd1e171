"""The learning rate that belongs to a batch size (the linear scaling rule)."""

import logging
from dataclasses import dataclass

from detectron2.config import CfgNode

from ..errors import ConfigError

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
    """Scale `SOLVER.BASE_LR` to the batch size, or warn if it is off by more than a factor of 2.

    Args:
        cfg: the config after command-line overrides; changed in place when `scale`.
        reference: the values of the config file itself.
        scale: `--auto-scale-lr`.

    Raises:
        ConfigError: `scale`, and `SOLVER.BASE_LR` was overridden as well.
    """
    now = LearningRate.of(cfg)
    fitting = reference.scaled_to(now.ims_per_batch)
    rule = f"the config file has {reference.base_lr:g} for {reference.ims_per_batch} images"
    if scale:
        if now.base_lr != reference.base_lr:
            raise ConfigError(
                f"--auto-scale-lr and SOLVER.BASE_LR {now.base_lr:g} are both set: omit one of them"
            )
        cfg.SOLVER.BASE_LR = fitting
        logger.info(f"SOLVER.BASE_LR is {fitting:g} for {now.ims_per_batch} images: {rule}")
    elif not 0.5 <= now.base_lr / fitting <= 2:
        logger.warning(
            f"SOLVER.BASE_LR is {now.base_lr:g} for {now.ims_per_batch} images per iteration, "
            f"{now.base_lr / fitting:.3g} times the linear scaling rule: {rule}, which is "
            f"{fitting:g} here. Pass --auto-scale-lr or set SOLVER.BASE_LR. A learning rate that "
            "is too high for the batch size is a common cause of NaN losses."
        )
