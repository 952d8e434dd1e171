"""Everything around the model in training: set-up, trainer, training step, hooks."""

from ..checkpoint.checkpointer import ReportingCheckpointer
from .config_loading import load_config, merge_config
from .datasets import add_dataset_arguments, check_data, use_datasets
from .hooks.report import write_report
from .learning_rate import LearningRate, fit_learning_rate
from .logs import start_logging
from .options import check_training_options
from .preflight import check_inputs, use_available_device
from .replay import NonFiniteError
from .setup import log_and_seed, save_config
from .trainer import MRCNNTrainer

__all__ = [
    "LearningRate",
    "MRCNNTrainer",
    "NonFiniteError",
    "ReportingCheckpointer",
    "add_dataset_arguments",
    "check_data",
    "check_inputs",
    "check_training_options",
    "fit_learning_rate",
    "load_config",
    "log_and_seed",
    "merge_config",
    "save_config",
    "start_logging",
    "use_available_device",
    "use_datasets",
    "write_report",
]
