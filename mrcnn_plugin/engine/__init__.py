"""What stands around the model in training: trainer, checkpointer, checks before the start."""

from .checkpoint import ReportingCheckpointer
from .learning_rate import LearningRate, fit_learning_rate
from .logs import start_logging
from .nonfinite import NonFiniteError, replay
from .preflight import PreflightError, check_inputs, use_available_device
from .report_hook import write_report
from .trainer import MRCNNTrainer

__all__ = [
    "LearningRate",
    "MRCNNTrainer",
    "NonFiniteError",
    "PreflightError",
    "ReportingCheckpointer",
    "check_inputs",
    "fit_learning_rate",
    "replay",
    "start_logging",
    "use_available_device",
    "write_report",
]
