"""The loop of the trainer after an error, and a subclass with its own evaluator."""

import math

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.evaluation import DatasetEvaluator

from mrcnn_plugin.engine import MRCNNTrainer
from mrcnn_plugin.errors import RunError


class Explode(HookBase):
    def __init__(self, error, *, iteration):
        self.error, self.iteration = error, iteration

    def before_step(self):
        if self.trainer.iter == self.iteration:
            raise self.error


def test_an_error_in_the_last_iteration_is_not_followed_by_an_evaluation(shapes_cfg, caplog):
    trainer = MRCNNTrainer(shapes_cfg())
    trainer.register_hooks([Explode(RunError("told to"), iteration=1)])
    with caplog.at_level("INFO", "mrcnn_plugin"), pytest.raises(RunError, match="told to"):
        trainer.train()
    assert trainer.last_results == {}
    (record,) = [r for r in caplog.records if "Training ends with an error: told to" in r.message]
    assert record.file_only  # the command prints the sentence on the screen
    assert "Exception during training" not in caplog.text  # one sentence, without a traceback


def test_an_error_of_the_program_is_logged_with_its_traceback(shapes_cfg, caplog):
    trainer = MRCNNTrainer(shapes_cfg())
    trainer.register_hooks([Explode(ZeroDivisionError("by zero"), iteration=0)])
    with pytest.raises(ZeroDivisionError, match="by zero"):
        trainer.train()
    assert "Exception during training" in caplog.text


def test_a_model_that_finds_nothing_yet_does_not_end_the_training(shapes_cfg):
    cfg = shapes_cfg("TEST.BEST_METRIC", "segm/AP", "TEST.REPORT", False)
    cfg.merge_from_list(["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0])
    trainer = MRCNNTrainer(cfg)
    trainer.train()
    assert math.isnan(trainer.last_results["segm"]["AP"])


class Constant(DatasetEvaluator):
    def evaluate(self):
        return {"mine": {"score": 7.0}}


class OwnTrainer(MRCNNTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_dir=""):
        return Constant()


def test_a_subclass_can_evaluate_metrics_of_its_own(shapes_cfg):
    cfg = shapes_cfg("TEST.BEST_METRIC", "mine/score", "TEST.REPORT", False)
    OwnTrainer(cfg).train()
    assert torch.load(f"{cfg.OUTPUT_DIR}/model_best.pth")["value"] == 7.0
