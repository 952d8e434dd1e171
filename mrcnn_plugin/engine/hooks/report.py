"""Writes `report.html` after each evaluation."""

import logging
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

from ...evaluation import build_report, write_run_info
from ..rng import preserved_rng

logger = logging.getLogger(__name__)


def write_report(cfg: CfgNode) -> None:
    """Call `build_report` without affecting training by its random draws or its errors."""
    if not comm.is_main_process():
        return
    try:
        with preserved_rng():
            if not Path(cfg.OUTPUT_DIR, "run.json").exists():  # evaluation only
                write_run_info(cfg)
            logger.info(f"Report: {build_report(cfg)}")
    except Exception:  # a missing report is no reason to lose a run
        logger.exception(
            f"The report could not be made. Run `mrcnn report {cfg.OUTPUT_DIR}` to repeat it."
        )


class ReportHook(HookBase):
    """Writes the report. Register it after evaluations and before the hook that closes writers."""

    def __init__(self, *, cfg: CfgNode, writers: Sequence[EventWriter]):
        """
        Args:
            cfg: the config of the run, which the report shows.
            writers: flushed before a report, so that it has the evaluation it is about.
        """
        self.cfg = cfg
        self.writers = writers

    def before_train(self):
        write_run_info(self.cfg)

    def after_step(self):
        period, done = self.cfg.TEST.EVAL_PERIOD, self.trainer.iter + 1
        if period > 0 and done % period == 0 and done < self.trainer.max_iter:
            self._write()

    def after_train(self):
        if self.trainer.iter >= self.trainer.max_iter:  # not after an error
            self._write()

    def _write(self):
        for writer in self.writers:
            writer.write()
        write_report(self.cfg)
