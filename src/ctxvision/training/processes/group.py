"""How processes that torchrun has started find each other, again after one of them has failed."""

import os
import re
import time
import uuid
from datetime import timedelta

import torch
import torch.distributed as dist

from ctxvision.training.error import TrainingError

_WAIT = timedelta(minutes=30)  # as Lightning waits


def join(device: torch.device) -> None:
    """Make the process group of torchrun's processes; Lightning then uses it.

    torchrun's store lives as long as torchrun and keeps the addresses of processes that have died (torch 2.14):
    whoever begins again first would try to reach them. So the first process gives this attempt a name of its
    own, below which nothing is known yet.

    Args:
        device: that this process computes with.
    """
    rank, size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    if size == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(*place, is_master=False, wait_for_workers=False, timeout=_WAIT)
    attempt = agree_on_attempt(dist.PrefixStore("ctxvision", store), rank, size)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = dist.Backend.default_device_backend_map[device.type]
    fresh = dist.PrefixStore(attempt, store)
    dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, timeout=_WAIT)


def agree_on_attempt(store: dist.Store, rank: int, size: int) -> str:
    """Return a name that the processes of this attempt share, and no earlier ones.

    Every process says hello under a name that was never used; the first answers everyone it hears, also the dead,
    until all of this attempt have thanked it.

    Args:
        store: in which earlier attempts may have left anything.
        rank: of this process.
        size: number of processes.
    """
    own = uuid.uuid4().hex
    if rank:
        store.set(f"hello/{rank}", own)
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
    """Tell whether an error says no more than that another process is gone."""
    words = r"Connection (reset|closed) by peer|Broken pipe|connectFullMesh|NCCL.*(remote|abort)"
    return dist.is_available() and re.search(words, str(error), re.IGNORECASE) is not None
