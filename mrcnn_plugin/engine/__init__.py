"""What stands around the model when it is trained: trainer, checkpointer, checks before the start."""

from .checkpoint import ReportingCheckpointer
from .preflight import PreflightError, check_inputs, use_available_device
from .trainer import MRCNNTrainer

__all__ = [
    "MRCNNTrainer",
    "PreflightError",
    "ReportingCheckpointer",
    "check_inputs",
    "use_available_device",
]
