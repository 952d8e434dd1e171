"""What stands around the model in training: trainer, checkpointer, checks before the start."""

from .checkpoint import ReportingCheckpointer
from .datasets import add_dataset_arguments, check_data, use_datasets
from .logs import start_logging
from .preflight import PreflightError, check_inputs, preflight_message, use_available_device
from .trainer import MRCNNTrainer

__all__ = [
    "MRCNNTrainer",
    "PreflightError",
    "ReportingCheckpointer",
    "add_dataset_arguments",
    "check_data",
    "check_inputs",
    "preflight_message",
    "start_logging",
    "use_available_device",
    "use_datasets",
]
