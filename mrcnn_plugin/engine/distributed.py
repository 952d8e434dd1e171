"""How a process joins the process group of a training, leaves it, and who reports an error."""

import logging
import socket
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import RunError
from .environment import Place

logger = logging.getLogger(__name__)

_TIMEOUT = timedelta(minutes=30)  # of collective calls, as in detectron2's `launch`
_RANK_0_FIRST = timedelta(seconds=2)
_FAILED = "failed"  # the key in the store that the first process to fail sets


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, also if it is wrapped in `DistributedDataParallel`."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def describe_process() -> str:
    """Rank, host and backend of this process, as one line for the log."""
    if not dist.is_initialized():
        return f"A single process on {socket.gethostname()}"
    return (
        f"Rank {comm.get_rank()} of {comm.get_world_size()} on {socket.gethostname()} (local rank "
        f"{comm.get_local_rank()} of {comm.get_local_size()}), backend {dist.get_backend()}"
    )


def run_in_group(function: Callable[[Any], None], args: Any, place: Place) -> None:
    """Call `function(args)` as one of the processes of a job. Every process must call it, once.

    A process group that exists already, as in Ray Train, is used and not destroyed.

    Raises:
        SystemExit: `function` raised it, or with status 1 if another process of the job has failed
            and reports why. Exactly one of the processes that fail raises its own error.
    """
    if dist.is_initialized():
        _set_up_device(place)
        comm.create_local_process_group(place.local_world_size)
        function(args)
        return
    group = _Group(place)
    try:
        function(args)
    except Exception:
        is_first = group.claim_error()
        group.abandon()
        if is_first:
            raise
        time.sleep(1)  # a launcher ends the others when one has ended; that one must print first
        raise SystemExit(1) from None
    except SystemExit:
        group.leave(timedelta(minutes=1))  # perhaps only this process has been asked to stop
        raise
    group.leave()


class _Group:
    """The process group of a job, set up as detectron2's `launch` does."""

    def __init__(self, place: Place):
        backend = _set_up_device(place)
        self.place = place
        store, rank, world_size = next(
            dist.rendezvous(place.url, place.rank, place.world_size, timeout=_TIMEOUT)
        )
        store.set_timeout(_TIMEOUT)
        store = _store_of_this_start(dist.PrefixStore("mrcnn", store), rank, world_size)
        self._store = dist.PrefixStore("launch", store)
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=world_size, timeout=_TIMEOUT
        )
        comm.create_local_process_group(place.local_world_size)
        comm.synchronize()

    def claim_error(self) -> bool:
        """Whether this process is the first to fail. Of several at once, rank 0 is the first.

        The errors of the others are mostly those of collective calls with the first.
        """
        try:
            if self.place.rank > 0 and self._appears([_FAILED], _RANK_0_FIRST):
                return False
            return self._store.add(_FAILED, 1) == 1
        except RuntimeError as error:
            raise RunError(
                f"rank {self.place.rank} on {socket.gethostname()} has lost the connection to the "
                "first process of the job, whose output says why it ended"
            ) from error

    def leave(self, timeout: timedelta = _TIMEOUT) -> None:
        """Destroy the process group when all processes have finished.

        No process leaves before the others are ready to, so that gloo's threads never lose a peer.
        A collective call of gloo cannot ensure this.
        """
        try:
            self._meet("finished", timeout)
            # Rank 0 leaves last, as its process may be the one that keeps the store.
            self._meet("leaving", timeout if self.place.rank == 0 else None)
        except RuntimeError as error:
            logger.warning(f"Another process has ended without waiting for this one: {error}")
            self.abandon()
        else:
            dist.destroy_process_group()

    def abandon(self) -> None:
        """Stop gloo's threads, which otherwise can abort the process at its exit (SIGABRT).

        NCCL has no such threads, and would wait for the other processes.
        """
        if dist.get_backend() == "gloo":
            dist.destroy_process_group()

    def _meet(self, name: str, timeout: timedelta | None) -> None:
        """Tell the others that this process is here; wait for them unless `timeout` is None."""
        self._store.set(f"{name}{self.place.rank}", "")
        keys = [f"{name}{rank}" for rank in range(self.place.world_size)]
        if timeout is None or self._appears(keys, timeout, unless=_FAILED):
            return
        if self._store.check([_FAILED]):
            self.abandon()
            raise SystemExit(1)
        raise RuntimeError(f"not every process was {name} within {timeout}")

    def _appears(self, keys: list[str], timeout: timedelta, unless: str | None = None) -> bool:
        """Whether all keys are set in time. Polls, as torch logs a warning if a wait times out."""
        deadline = time.monotonic() + timeout.total_seconds()
        while not self._store.check(keys):
            if time.monotonic() > deadline or (unless and self._store.check([unless])):
                return False
            time.sleep(0.05)
        return True


def _store_of_this_start(store: dist.Store, rank: int, world_size: int) -> dist.Store:
    """A part of `store` that has no keys of an earlier start of the same job.

    torchrun keeps its store when it restarts the processes. Gloo then finds the addresses of the
    ended processes there, and waits for them (torch 2.11). Restarts are counted per machine, so
    rank 0 names each start. The others answer until rank 0 has confirmed their own answer.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        store.set("start", own)
        answers = [f"{own}/answer{other}" for other in range(1, world_size)]
        store.wait(answers, _TIMEOUT)
        store.set(f"{own}/confirmed", " ".join(store.get(key).decode() for key in answers))
        return dist.PrefixStore(own, store)
    deadline = time.monotonic() + _TIMEOUT.total_seconds()
    while time.monotonic() < deadline:
        if store.check(["start"]):
            start = store.get("start").decode()
            store.set(f"{start}/answer{rank}", own)
            if store.check([key := f"{start}/confirmed"]) and own in store.get(key).decode():
                return dist.PrefixStore(start, store)
        time.sleep(0.05)
    raise RunError(f"rank {rank} has waited {_TIMEOUT} for the other processes of its job to start")


def _set_up_device(place: Place) -> str:
    """Select the GPU of this process, if there are GPUs; returns the backend."""
    if not torch.cuda.is_available():
        return "gloo"
    count = torch.cuda.device_count()
    if place.local_world_size > count:
        raise RunError(
            f"{place.local_world_size} processes per machine, but each process can use {count} "
            "GPUs. Start as many processes as there are GPUs, and let each of them use all GPUs "
            "of its machine (with Slurm, --gpus-per-node and not --gpus-per-task)."
        )
    torch.cuda.set_device(place.local_rank)
    return "nccl"
