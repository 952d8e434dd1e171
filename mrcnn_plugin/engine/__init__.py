"""What stands around the model in training: trainer, checkpointer, checks before the start."""

from ..checkpoint.checkpointer import ReportingCheckpointer
from .datasets import add_dataset_arguments, check_data, use_datasets
from .hooks.report import write_report
from .learning_rate import LearningRate, fit_learning_rate
from .logs import start_logging
from .nonfinite import NonFiniteError, replay
from .preflight import (
    PreflightError,
    check_inputs,
    merge_config,
    preflight_message,
    use_available_device,
)
from .trainer import MRCNNTrainer

__all__ = [
    "LearningRate",
    "MRCNNTrainer",
    "NonFiniteError",
    "PreflightError",
    "ReportingCheckpointer",
    "add_dataset_arguments",
    "check_data",
    "check_inputs",
    "fit_learning_rate",
    "merge_config",
    "preflight_message",
    "replay",
    "start_logging",
    "use_available_device",
    "use_datasets",
    "write_report",
]
