"""The precision in which a model computes, by `SOLVER.AMP.ENABLED`."""

import torch
from detectron2.config import CfgNode


def amp_dtype_of(cfg: CfgNode, device: torch.device) -> torch.dtype | None:
    """The dtype of `SOLVER.AMP.ENABLED`: float16 on GPUs, bfloat16 on CPUs. None without AMP."""
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def autocast(cfg: CfgNode, device: torch.device) -> torch.autocast:
    """A context in which a model computes in the dtype of `amp_dtype_of`.

    Weights, boxes, class scores, losses and NMS stay float32.
    """
    dtype = amp_dtype_of(cfg, device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
