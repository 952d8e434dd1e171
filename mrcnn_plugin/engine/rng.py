"""Saves and restores the state of every random generator that training uses."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def rng_state() -> dict:
    """The states of the generators of Python, numpy and torch, on the CPU and the current GPU.

    They are plain numbers and tensors, so that `torch.load` reads them with `weights_only=True`.
    """
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.copy()), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():  # False in the worker processes of a loader
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict) -> None:
    """Restore the result of `rng_state`. The state of a GPU is ignored if there is no GPU."""
    version, numbers, gauss_next = state["python"]
    random.setstate((version, tuple(numbers), gauss_next))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy(), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def derived_seed(seed: int, *keys: int) -> int:
    """A seed below 2**32 that depends on all arguments, which are 0 or more."""
    return int(np.random.SeedSequence((seed, *keys)).generate_state(1)[0])


def seed_generators(seed: int) -> None:
    """Seed the generators of Python, numpy and torch, on all devices, with 0 <= seed < 2**32."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def preserved_rng(seed: int | None = None) -> Iterator[None]:
    """A context after which every generator continues as if nothing had been drawn inside.

    Args:
        seed: seeds the generators inside, 0 <= seed < 2**32. None leaves them as they are.
    """
    state = rng_state()
    try:
        if seed is not None:
            seed_generators(seed)
        yield
    finally:
        set_rng_state(state)
