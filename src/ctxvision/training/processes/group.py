"""The process group: the rendezvous of torchrun's processes, also after a restart, and what all of them gather."""

import os
import re
import time
import uuid
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only

from ctxvision.training.error import TrainingError

_WAIT = timedelta(minutes=30)  # as Lightning waits


def rank() -> int:
    """Return the rank of this process as Lightning knows it, 0 for the first process."""
    return getattr(rank_zero_only, "rank", None) or 0


def join(device: torch.device) -> None:
    """Initialise the process group of torchrun's processes; Lightning then uses it.

    The rendezvous store lives as long as torchrun and keeps the addresses of processes that have died (torch
    2.14): the first process of a restart would try to reach them. So rank 0 gives this attempt a prefix of its
    own, below which the store is empty.

    Args:
        device: Device that this process computes with.
    """
    own_rank, size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    if size == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(*place, is_master=False, wait_for_workers=False, timeout=_WAIT)
    attempt = agree_on_attempt(dist.PrefixStore("ctxvision", store), own_rank, size)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = dist.Backend.default_device_backend_map[device.type]
    fresh = dist.PrefixStore(attempt, store)
    dist.init_process_group(backend, store=fresh, rank=own_rank, world_size=size, timeout=_WAIT)


def agree_on_attempt(store: dist.Store, own_rank: int, size: int) -> str:
    """Return a name that the processes of this attempt share, and processes of earlier attempts do not.

    It is a handshake. Every process says hello under a name that was never used; rank 0 answers every hello, also
    those of dead processes, until all other ranks of this attempt have thanked it.

    Args:
        store: Rendezvous store, in which earlier attempts may have left anything.
        own_rank: Rank of this process.
        size: Number of processes of this attempt, the world size.

    Raises:
        TrainingError: Not all ranks have come in time.
    """
    own = uuid.uuid4().hex
    if own_rank:
        store.set(f"hello/{own_rank}", own)
        attempt = store.get(f"answer/{own}").decode()
        store.add(f"thanks/{attempt}", 1)
        return attempt
    answered: set[str] = set()
    end = time.monotonic() + _WAIT.total_seconds()
    while store.add(f"thanks/{own}", 0) < size - 1:
        for other in range(1, size):
            if store.check([f"hello/{other}"]) and (name := store.get(f"hello/{other}").decode()) not in answered:
                store.set(f"answer/{name}", own)
                answered.add(name)
        if time.monotonic() > end:
            raise TrainingError(f"only {store.add(f'thanks/{own}', 0) + 1} of {size} processes have come")
        time.sleep(0.02)
    return own


def is_lost_process(error: RuntimeError) -> bool:
    """Tell whether an error says no more than that another process of the group is gone."""
    words = r"Connection (reset|closed) by peer|Broken pipe|connectFullMesh|NCCL.*(remote|abort)"
    return dist.is_available() and re.search(words, str(error), re.IGNORECASE) is not None


def merged(reports: dict[str, str]) -> dict[str, str]:
    """Return the entries of all ranks in one dictionary; every rank must call this."""
    if not dist.is_available() or not dist.is_initialized():
        return reports
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, reports)
    return {name: value for report in gathered for name, value in report.items()}


def leave() -> None:
    """Destroy the process group, whose threads may otherwise outlive the interpreter and abort it."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
