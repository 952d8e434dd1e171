"""Writes `report.html` after each evaluation."""

import logging
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter

from ...evaluation import build_report, write_run_info
from ..rng import preserved_rng

logger = logging.getLogger(__name__)


def write_report(cfg: CfgNode) -> None:
    """`build_report` that leaves no trace in training: neither random draws nor its errors."""
    if not comm.is_main_process():
        return
    try:
        with preserved_rng():
            if not Path(cfg.OUTPUT_DIR, "run.json").exists():  # evaluation alone
                write_run_info(cfg)
            logger.info(f"Report: {build_report(cfg)}")
    except Exception:  # a picture less is no reason to lose a run
        logger.exception("The report could not be made; mrcnn report makes it again")


class ReportHook(HookBase):
    """Comes after evaluations, on the main process, and before the writer, which closes its files.

    Values are flushed to `metrics.json` first, so that the report has the evaluation it is about.
    """

    def __init__(self, cfg: CfgNode, writer: hooks.PeriodicWriter):
        self.cfg = cfg
        self.json_writers = [w for w in writer._writers if isinstance(w, JSONWriter)]

    def before_train(self):
        write_run_info(self.cfg)

    def after_step(self):
        period, done = self.cfg.TEST.EVAL_PERIOD, self.trainer.iter + 1
        if period > 0 and done % period == 0 and done < self.trainer.max_iter:
            self._write()

    def after_train(self):
        if self.trainer.iter + 1 >= self.trainer.max_iter:  # as EvalHook: not after a failure
            self._write()

    def _write(self):
        for writer in self.json_writers:
            writer.write()
        write_report(self.cfg)
