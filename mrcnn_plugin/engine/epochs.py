"""The schedule of a training in epochs: `--epochs`, or inferred from the number of images."""

import logging
import math
from collections.abc import Collection

from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts

from ..data.processes import run_on_main_process
from ..errors import ConfigError

logger = logging.getLogger(__name__)

# Without --epochs: as many epochs as make this many iterations, between the two numbers of epochs.
_ITERATIONS, _FEWEST_EPOCHS, _MOST_EPOCHS = 2000, 12, 100
# The learning rate drops where it does in detectron2's 3x schedule: 210k and 250k of 270k.
_STEPS = (7 / 9, 25 / 27)
_EVALUATIONS = 20  # about; each is after a whole number of epochs
_CHECKPOINTS = 5  # about; each is two to three times as large as the weights


def infers_schedule(cfg: CfgNode, epochs: float | None) -> bool:
    """Whether `fit_schedule` sets the schedule: by `--epochs`, or if the file has `MAX_ITER: 0`.

    Args:
        cfg: the config before command-line overrides.
        epochs: the value of `--epochs`.
    """
    return epochs is not None or cfg.SOLVER.MAX_ITER == 0


def fit_schedule(cfg: CfgNode, *, epochs: float | None, given: Collection[str]) -> None:
    """Set the keys that depend on the number of iterations, in place, and log the arithmetic.

    `SOLVER.MAX_ITER`, `STEPS`, `WARMUP_ITERS`, `CHECKPOINT_PERIOD` and `TEST.EVAL_PERIOD` follow
    from the number of training images and `SOLVER.IMS_PER_BATCH`. The same data give the same
    schedule, also with `--resume`.

    Args:
        cfg: not frozen; its datasets are registered and have been checked.
        epochs: passes over the training images. None chooses as many as make 2,000 iterations, but
            12 to 100.
        given: keys that the user set on the command line and that are not changed.

    Raises:
        ConfigError: `epochs` is not a positive number, or the images cannot be counted.
    """
    if epochs is not None and not 0 < epochs < math.inf:
        raise ConfigError(f"--epochs is {epochs:g}; expected a positive number")
    num_images = run_on_main_process(lambda: count_training_images(cfg))
    batch = cfg.SOLVER.IMS_PER_BATCH
    per_epoch = num_images / batch
    if "SOLVER.MAX_ITER" in given:
        max_iter = cfg.SOLVER.MAX_ITER
        epochs = max_iter / per_epoch
        logger.info(
            f"SOLVER.MAX_ITER stays {max_iter} as set: {epochs:.3g} epochs of {num_images} images "
            f"in batches of {batch}"
        )
    else:
        why = "--epochs" if epochs else f"inferred: {_ITERATIONS} iterations, 12 to 100 epochs"
        epochs = epochs or min(max(_ITERATIONS / per_epoch, _FEWEST_EPOCHS), _MOST_EPOCHS)
        exact = round(epochs * per_epoch, 6)
        max_iter = math.ceil(exact)
        rounded = "" if exact == max_iter else f"{exact:g}, so "
        logger.info(
            f"{epochs:.4g} epochs ({why}) of {num_images} images in batches of {batch}: "
            f"{epochs:.4g} * {num_images} / {batch} = {rounded}{max_iter} iterations"
        )
    _set(cfg, schedule(max_iter, epochs, warmup=cfg.SOLVER.WARMUP_ITERS), given)


def schedule(max_iter: int, epochs: float, *, warmup: int) -> dict[str, object]:
    """The keys of a schedule and their values.

    Args:
        max_iter: iterations of the training.
        epochs: passes over the images in these iterations.
        warmup: the longest warm-up in iterations.
    """
    epochs_between = max(1, round(epochs / _EVALUATIONS))
    period = max(1, round(max_iter / epochs * epochs_between))
    per_checkpoint = max(1, round(max_iter / _CHECKPOINTS / period))
    steps = {round(part * max_iter) for part in _STEPS}
    return {
        "SOLVER.MAX_ITER": max_iter,
        "SOLVER.STEPS": tuple(sorted(step for step in steps if 0 < step < max_iter)),
        "SOLVER.WARMUP_ITERS": min(warmup, max_iter // 10),
        "SOLVER.CHECKPOINT_PERIOD": per_checkpoint * period,
        "TEST.EVAL_PERIOD": period,
    }


def _set(cfg: CfgNode, values: dict[str, object], given: Collection[str]) -> None:
    kept = [key for key in values if key in given]
    for key, value in values.items():
        if key not in given:
            cfg.merge_from_list([key, value])
    chosen = ", ".join(f"{key} {value}" for key, value in values.items() if key not in given)
    unchanged = f"; unchanged, as set: {', '.join(kept)}" if kept else ""
    logger.info(f"The schedule is {chosen}{unchanged}")


def count_training_images(cfg: CfgNode) -> int:
    """The number of images that the training loader draws from, without those it drops.

    Raises:
        ConfigError: a dataset is a stream without a length.
    """
    images = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
        if cfg.MODEL.KEYPOINT_ON
        else 0,
        check_consistency=False,
    )
    try:
        return len(images)
    except TypeError as error:
        raise ConfigError(
            f"The images of {', '.join(cfg.DATASETS.TRAIN)} cannot be counted, because the dataset "
            "is a stream. Set SOLVER.MAX_ITER, STEPS and TEST.EVAL_PERIOD instead of --epochs."
        ) from error
