"""Saves and restores the state of every random generator that training uses."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def rng_state() -> dict:
    """The states of Python's, numpy's and torch's generators, of the CPU and of this GPU.

    Plain numbers and tensors only, so that a file with it loads with `weights_only=True`.
    """
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.copy()), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict) -> None:
    """Put back what `rng_state` returned; a GPU's state is dropped where there is no GPU."""
    version, numbers, gauss_next = state["python"]
    random.setstate((version, tuple(numbers), gauss_next))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy(), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextlib.contextmanager
def preserved_rng(seed: int | None = None) -> Iterator[None]:
    """Whatever is drawn inside changes nothing outside.

    Args:
        seed: where the generators start inside; None: where they are.
    """
    state = rng_state()
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
        yield
    finally:
        set_rng_state(state)
