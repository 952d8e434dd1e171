"""What happens when training ends before its last iteration: a signal or an error."""

import logging
import time
from pathlib import Path

from detectron2.utils import comm

from ..errors import RunError, is_disk_error
from .logs import FILE_ONLY
from .stop_signals import Interrupted, Stopped
from .train_loader import LoadingError

logger = logging.getLogger(__name__)

_LONGEST_WAIT = 120  # seconds for another process to write a checkpoint


def stop_if_requested(trainer) -> None:
    """After an iteration, end the run in every process if any of them has received a signal.

    Raises:
        Stopped: the checkpoint of this iteration has been saved.
    """
    received = trainer.stop_signals.received
    stop = received is not None if comm.get_world_size() == 1 else trainer.step_was_asked_to_stop()
    if not stop:
        return
    _save(trainer)
    comm.synchronize()  # a launcher may kill the others when the first process has ended
    raise Stopped(received)


def end_of_run(trainer, problem: BaseException) -> BaseException:
    """The exception with which a run ends, for one that has ended it.

    After a signal a checkpoint is saved. The errors of a full or vanished disk become one sentence.
    """
    received = trainer.stop_signals.received
    if isinstance(problem, LoadingError) and received is not None:
        # The worker processes received the signal too. The iteration has not begun.
        trainer.iter -= 1
        problem = Interrupted()
    if isinstance(problem, Interrupted):
        _save(trainer)
        _wait_for_checkpoint(trainer)
        return Stopped(received)
    if is_disk_error(problem):
        reason, folder = problem.strerror, trainer.cfg.OUTPUT_DIR
        problem = RunError(
            f"OUTPUT_DIR '{folder}' can no longer be written to ({reason}). Free space or make it "
            "writable, and continue with --resume from the last checkpoint, which is intact."
        )
    if isinstance(problem, RunError):
        logger.info(f"Training ends with an error: {problem}", extra=FILE_ONLY)
    elif isinstance(problem, Exception):
        logger.error("Exception during training:", exc_info=problem)
    return problem


def _save(trainer) -> None:
    """Save the iterations that are done, unless a checkpoint has them already."""
    if trainer.start_iter <= trainer.iter < trainer.max_iter:
        trainer.checkpointer.save(_name(trainer), iteration=trainer.iter)
    logger.warning(
        f"The run ends after {min(trainer.iter + 1, trainer.max_iter)} iterations because of a "
        f"signal. The same command with --resume continues from the checkpoint in "
        f"{trainer.cfg.OUTPUT_DIR}."
    )


def _wait_for_checkpoint(trainer) -> None:
    """In other processes than the main one. They may have stopped in different places, so that a
    collective call could wait for ever."""
    file = Path(trainer.cfg.OUTPUT_DIR, f"{_name(trainer)}.pth")
    end = time.monotonic() + _LONGEST_WAIT
    while not comm.is_main_process() and not file.exists() and time.monotonic() < end:
        time.sleep(0.1)


def _name(trainer) -> str:
    return f"model_{trainer.iter:07d}"
