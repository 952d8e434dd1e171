"""What torch and detectron2 lack for models that may be wrapped for several processes."""

from torch import nn
from torch.nn.parallel import DistributedDataParallel


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, also if it is wrapped in `DistributedDataParallel`."""
    return model.module if isinstance(model, DistributedDataParallel) else model
