"""detectron2's DefaultTrainer on any device, with evaluators and test-time augmentation."""

import logging
import os
import weakref
from collections import OrderedDict

import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, TrainerBase, create_ddp_model, hooks
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    DatasetEvaluator,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
)
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.utils import comm

from ..checkpoint.checkpointer import ReportingCheckpointer
from ..evaluation import AnalysingCOCOEvaluator, inference_folder
from .hooks.wandb_writer import WandbWriter
from .monitoring import add_monitoring_hooks, build_step

logger = logging.getLogger(__name__)


class _StoppedEarly(BaseException):
    """Leaves detectron2's loop, which logs every `Exception` as a failure."""


class MRCNNTrainer(DefaultTrainer):
    """`DefaultTrainer` built for any device, with the evaluator that belongs to each data set.

    Config: everything that detectron2's trainer reads, `TEST.AUG` and `SOLVER.AMP` included.
    """

    def __init__(self, cfg):
        """The steps of `DefaultTrainer.__init__`, which wraps the model for GPUs alone."""
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)

        on_gpu = model.device.type == "cuda"
        device_ids = [comm.get_local_rank()] if on_gpu else None
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
        self._trainer = build_step(cfg, model, data_loader, optimizer)

        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = ReportingCheckpointer(
            model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self._stop = False
        self.register_hooks(self.build_hooks())

    def build_hooks(self):
        ret = super().build_hooks()
        if self.cfg.TEST.AUG.ENABLED:
            tta = hooks.EvalHook(0, lambda: self.test_with_tta(self.cfg, self.model))
            # Before the writer, so that it writes these results too; only the main process has one.
            ret.insert(len(ret) - comm.is_main_process(), tta)
        return add_monitoring_hooks(self, ret)

    def build_writers(self):
        """detectron2's (screen, metrics.json, TensorBoard), and Weights & Biases by config."""
        writers = super().build_writers()
        if self.cfg.WANDB_PROJECT:
            writers.append(WandbWriter(self.cfg))
        return writers

    def stop_after_this_step(self) -> None:
        """End training as at `MAX_ITER`, final checkpoint and evaluation included."""
        self.max_iter = self.iter + 1
        self._stop = True

    def after_step(self):
        super().after_step()
        if self._stop:
            self.iter += 1  # as detectron2's loop does at its end
            raise _StoppedEarly

    def train(self):
        """As in detectron2; a run that was stopped early is not held to `TEST.EXPECTED_RESULTS`."""
        try:
            return super().train()
        except _StoppedEarly:
            return self._last_eval_results

    @classmethod
    def build_evaluator(cls, cfg, dataset_name: str, output_dir: str = "") -> DatasetEvaluator:
        """The evaluator of the data set's `evaluator_type`; COCO's where it has none.

        Raises:
            ValueError: the type is one that detectron2 has no instance evaluator for.
        """
        if not output_dir:
            output_dir = str(inference_folder(cfg, dataset_name))
        kind = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
        if kind == "coco":
            return AnalysingCOCOEvaluator(dataset_name, output_dir=output_dir)
        if kind == "lvis":
            return LVISEvaluator(dataset_name, output_dir=output_dir)
        if kind == "pascal_voc":
            return PascalVOCDetectionEvaluator(dataset_name)
        if kind == "cityscapes_instance":
            return CityscapesInstanceEvaluator(dataset_name)
        raise ValueError(
            f"data set '{dataset_name}' has evaluator_type '{kind}'; expected one of coco, lvis, "
            "pascal_voc, cityscapes_instance. Set it with MetadataCatalog.get(name).set(...)"
        )

    @classmethod
    def test_with_tta(cls, cfg, model) -> OrderedDict:
        """Evaluate with test-time augmentation (`TEST.AUG`); result names end in `_TTA`."""
        logger.info("Running inference with test-time augmentation ...")
        if isinstance(model, torch.nn.parallel.DistributedDataParallel):
            model = model.module
        evaluators = [
            cls.build_evaluator(cfg, name, os.path.join(cfg.OUTPUT_DIR, "inference_TTA"))
            for name in cfg.DATASETS.TEST
        ]
        results = cls.test(cfg, GeneralizedRCNNWithTTA(cfg, model), evaluators)
        return OrderedDict((f"{name}_TTA", value) for name, value in results.items())
