"""detectron2's DefaultTrainer on any device, with this plugin's step, hooks and evaluators."""

import logging
import os
import weakref
from collections import OrderedDict

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, MetadataCatalog, build_detection_test_loader
from detectron2.engine import DefaultTrainer, TrainerBase, create_ddp_model
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    DatasetEvaluator,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    verify_results,
)
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from ..checkpoint.checkpointer import ReportingCheckpointer
from ..checkpoint.class_rows import known_names
from ..checkpoint.model_file import class_names
from ..data.reading import ReportingMapper
from ..errors import ConfigError
from ..evaluation import AnalysingCOCOEvaluator, inference_folder
from ..precision import amp_dtype_of, autocast
from .build_hooks import Hooks, build_hooks
from .distributed import unwrap
from .ending import end_of_run, stop_if_requested
from .hooks.wandb_writer import WandbWriter
from .logs import FILE_ONLY
from .options import check_required_options
from .replay import nonfinite_error
from .rng import derived_seed, seed_generators
from .stop_signals import StopSignals
from .train_loader import TrainLoader, build_train_loader
from .train_step import NonFiniteStep, TrainStep

logger = logging.getLogger(__name__)


class MRCNNTrainer(DefaultTrainer):
    """`DefaultTrainer` for any device, with the evaluator that belongs to each dataset.

    Config: everything that detectron2's trainer reads, including `TEST.AUG` and `SOLVER.AMP`, and
    this plugin's keys of `SOLVER`, `TEST` and `WANDB_PROJECT`.
    """

    def __init__(self, cfg: CfgNode):
        """The steps of `DefaultTrainer.__init__`, which can wrap the model on GPUs only.

        Raises:
            ConfigError: training options contradict each other.
        """
        TrainerBase.__init__(self)
        check_required_options(cfg)
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
        self.checkpointer.class_names = known_names(class_names(cfg))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.last_results: dict = {}
        self.writers: list = []
        self._built_hooks: Hooks | None = None  # a subclass may build its own
        self.stop_signals = StopSignals()
        self._trainer.stop_requested = lambda: self.stop_signals.received is not None
        # All random numbers of an iteration are seeded by this, the iteration and the rank.
        self.seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self.register_hooks(self.build_hooks())

    def build_hooks(self):
        self._built_hooks = build_hooks(self, super().build_hooks())
        return self._built_hooks.all

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, mapper=None):
        """A `TrainLoader`, which a resumed run continues at the same image.

        Args:
            cfg: a full config.
            mapper: pass one of your own from a subclass; None is that of `training_mapper`.
        """
        return build_train_loader(cfg, mapper=mapper)

    def build_writers(self):
        """detectron2's (screen, metrics.json, TensorBoard), and Weights & Biases by config."""
        self.writers = super().build_writers()
        project, output_dir = self.cfg.WANDB_PROJECT, self.cfg.OUTPUT_DIR
        if project:
            config = yaml.safe_load(self.cfg.dump())
            self.writers.append(WandbWriter(project=project, output_dir=output_dir, config=config))
        return self.writers

    def evaluate(self) -> dict:
        """Evaluate the model on `DATASETS.TEST`, and keep the results as `last_results`."""
        self.last_results = self.test(self.cfg, self.model)
        return self.last_results

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """detectron2's, with errors that name the image."""
        mapper = ReportingMapper(DatasetMapper(cfg, is_train=False))
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    def stop_after_this_step(self) -> None:
        """End training as at `MAX_ITER`, with the final checkpoint and evaluation."""
        self.max_iter = self.iter + 1
        if self._built_hooks and self._built_hooks.checkpoint:
            self._built_hooks.checkpoint.max_iter = self.max_iter

    def state_dict(self) -> dict:
        """Of the trainer; `iteration` is the last one that is in the weights."""
        last = min(self.iter, self.max_iter - 1)
        return {**super().state_dict(), "iteration": last, "seed": self.seed}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        seed = state.get("seed", self.seed)  # detectron2's checkpoints have none
        if self.cfg.SEED not in (-1, seed):
            logger.warning(f"The run continues with its own seed {seed}, not SEED {self.cfg.SEED}")
        self.seed = seed

    def train(self) -> dict:
        """Train from `start_iter` to `max_iter`, which a hook may lower; returns `last_results`.

        SIGTERM, SIGUSR1 and Ctrl-C end it after the iteration, or within an evaluation at once.

        Raises:
            NonFiniteError: a loss or gradient is infinite or NaN.
            LoadingError: an image could not be loaded.
            RunError: OUTPUT_DIR can no longer be written to.
            Stopped: a signal was received. A checkpoint has been saved. This is a `SystemExit`.
        """
        evaluated = self._built_hooks and self._built_hooks.evaluation.num_evaluated
        if self.start_iter >= self.max_iter and evaluated in (None, self.max_iter):
            logger.warning(
                f"Nothing left to train: the checkpoint has {self.start_iter} iterations and "
                f"SOLVER.MAX_ITER is {self.max_iter}. Raise SOLVER.MAX_ITER to train longer, or "
                "pass --eval-only to evaluate."
            )
            return self.last_results
        logger.info(f"Starting training from iteration {self.start_iter}")
        error = None
        with EventStorage(self.start_iter) as self.storage, self.stop_signals:
            for part in (self._loop, self.after_train):
                try:
                    part()
                except BaseException as problem:
                    error = error or end_of_run(self, problem)
        if error:
            raise error
        stopped_early = self.max_iter < self.cfg.SOLVER.MAX_ITER
        if self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process() and not stopped_early:
            verify_results(self.cfg, self.last_results)
        return self.last_results

    def _loop(self) -> None:
        self.iter = self.start_iter
        if isinstance(self.data_loader, TrainLoader):
            self.data_loader.seed, self.data_loader.start_iter = self.seed, self.start_iter
        self.before_train()
        if self._built_hooks and self._built_hooks.evaluation.is_pending():
            self._continue_after_checkpoint()
        while self.iter < self.max_iter:
            self.before_step()
            seed_generators(derived_seed(self.seed, self.iter, comm.get_rank()))
            self.run_step()
            self.after_step()
            stop_if_requested(self)
            self.iter += 1

    def _continue_after_checkpoint(self) -> None:
        """What followed the checkpoint in its iteration: the evaluation and what depends on it."""
        self.iter = self.storage.iter = self.start_iter - 1
        for hook in self._built_hooks.after_checkpoint:
            hook.after_step()
        self.iter = self.start_iter

    def step_was_asked_to_stop(self) -> bool:
        """Whether any process had received a signal during the last step."""
        return self._trainer.stop

    def run_step(self):
        try:
            super().run_step()
        except NonFiniteStep as step:
            raise nonfinite_error(step, self.cfg, self.model) from None

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = build_model(cfg)
        logger.info(f"Model:\n{model}", extra=FILE_ONLY)
        return model

    @classmethod
    def build_evaluator(cls, cfg, dataset_name: str, output_dir: str = "") -> DatasetEvaluator:
        """The evaluator of the dataset's `evaluator_type`, or COCO's if it has none.

        Raises:
            ConfigError: detectron2 has no instance evaluator of this type.
        """
        if not output_dir:
            output_dir = str(inference_folder(cfg, dataset_name))
        kind = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
        if kind == "coco":
            is_on = {"segm": cfg.MODEL.MASK_ON, "keypoints": cfg.MODEL.KEYPOINT_ON}
            return AnalysingCOCOEvaluator(
                dataset_name,
                # Inferred from the detections, masks would be missing where none is found.
                tasks=("bbox", *(task for task, on in is_on.items() if on)),
                output_dir=output_dir,
                engine=cfg.TEST.COCO_EVAL,
            )
        if kind == "lvis":
            return LVISEvaluator(dataset_name, output_dir=output_dir)
        if kind == "pascal_voc":
            return PascalVOCDetectionEvaluator(dataset_name)
        if kind == "cityscapes_instance":
            return CityscapesInstanceEvaluator(dataset_name)
        raise ConfigError(
            f"The dataset '{dataset_name}' has evaluator_type '{kind}'; expected one of coco, "
            "lvis, pascal_voc, cityscapes_instance. Set it with MetadataCatalog.get(name).set(...)."
        )

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators=None) -> OrderedDict:
        """As in `DefaultTrainer`, in the precision of training (`SOLVER.AMP.ENABLED`)."""
        with autocast(cfg, next(model.parameters()).device):
            return super().test(cfg, model, evaluators)

    @classmethod
    def test_with_tta(cls, cfg: CfgNode, model: nn.Module) -> OrderedDict:
        """Evaluate with test-time augmentation (`TEST.AUG`). Names of results end in `_TTA`."""
        logger.info("Running inference with test-time augmentation ...")
        evaluators = [
            cls.build_evaluator(cfg, name, os.path.join(cfg.OUTPUT_DIR, "inference_TTA"))
            for name in cfg.DATASETS.TEST
        ]
        results = cls.test(cfg, GeneralizedRCNNWithTTA(cfg, unwrap(model)), evaluators)
        return OrderedDict((f"{name}_TTA", value) for name, value in results.items())


def build_step(cfg: CfgNode, model: nn.Module, data_loader, optimizer) -> TrainStep:
    """The `TrainStep` of a config, by `SOLVER.AMP` and `SOLVER.ACCUMULATE`."""
    device = next(model.parameters()).device
    amp_dtype = amp_dtype_of(cfg, device)
    return TrainStep(
        model,
        data_loader,
        optimizer,
        amp_dtype=amp_dtype,
        scaler=torch.amp.GradScaler(device.type) if amp_dtype == torch.float16 else None,
        accumulate=cfg.SOLVER.ACCUMULATE,
    )
