"""The processes of a run: their launcher and number, and the rendezvous of torchrun's, also after a restart."""

import logging
import os
import re
import socket
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only

from ctxvision.devices import resolved
from ctxvision.wording import plural

from .error import OptionError, TrainingError

log = logging.getLogger(__name__)

_NAMELESS = ("", "none")  # what torchrun calls its runs unless told


class Launch(NamedTuple):
    """The launcher that has started this process as one of several."""

    by: str
    """``torchrun`` or ``SLURM``."""
    devices: int
    """Number of processes on each node."""
    nodes: int
    """Number of nodes."""
    run: str
    """Name of the run, the same in all attempts; a launcher restarts a run when a process or a node has failed."""
    restarts: int
    """Number of earlier attempts; where nodes come and go it may be 0 in a later attempt."""
    repeats: bool
    """Whether there can have been an earlier attempt."""


def launched() -> Launch | None:
    """Read the environment variables of torchrun and SLURM, in the order in which Lightning looks for them.

    Returns:
        The launcher; ``None`` where Lightning itself starts the other processes.

    Raises:
        OptionError: Nodes have different numbers of processes, or a variable is no number.
    """
    e = os.environ
    if "TORCHELASTIC_RUN_ID" in e:
        size, here = _number("WORLD_SIZE"), _number("LOCAL_WORLD_SIZE")
        nodes = _number("GROUP_WORLD_SIZE", size // here)
        _require_alike("torchrun", size, here, nodes)
        run = e["TORCHELASTIC_RUN_ID"]
        # a run without a name is that of one torchrun process
        run = _parent() if run in _NAMELESS else run
        return Launch("torchrun", here, nodes, f"torchrun {run}", _number("TORCHELASTIC_RESTART_COUNT", 0), True)
    if "SLURM_NTASKS" in e and e.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        size, nodes = _number("SLURM_NTASKS"), _number("SLURM_NNODES", 1)
        _require_alike("SLURM", size, max(size // nodes, 1), nodes)
        restarts = _number("SLURM_RESTART_COUNT", 0)
        return Launch("SLURM", size // nodes, nodes, f"SLURM {e.get('SLURM_JOB_ID')}", restarts, restarts > 0)
    return None


def counts(devices: int | None, nodes: int | None) -> tuple[int, int]:
    """Complete the numbers of devices per node and of nodes.

    Args:
        devices: Number of devices on each node as the user has set it, or ``None``.
        nodes: Number of nodes as the user has set it, or ``None``.

    Raises:
        OptionError: The launcher has started another number of processes.
    """
    launch = launched()
    if launch is None:
        return devices or 1, nodes or 1
    for option, asked, started in (("devices", devices, launch.devices), ("nodes", nodes, launch.nodes)):
        if asked not in (None, started):
            raise OptionError(
                f"--{option} {asked}, but {launch.by} has started {plural(launch.nodes, 'node')} × "
                f"{plural(launch.devices, 'device')}; let it start as many, or leave --{option} out",
            )
    return launch.devices, launch.nodes


def _require_alike(by: str, size: int, here: int, nodes: int) -> None:
    if here * nodes != size:
        raise OptionError(
            f"{by} has started {size} processes on {nodes} nodes, {here} on this one; every node needs as many"
        )


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError as error:
        raise OptionError(f"the environment says {name}={text}, which is no number") from error


def _parent() -> str:
    """Name the parent process so that no later one is called the same."""
    pid = os.getppid()
    try:
        # what follows the name in parentheses; field 22 is when it began
        began = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        began = ""
    return f"of process {pid} on {socket.gethostname()} {began}".rstrip()


_WAIT = timedelta(minutes=30)  # as Lightning waits


def rank() -> int:
    """Return the rank of this process as Lightning knows it, 0 for the first process."""
    return getattr(rank_zero_only, "rank", None) or 0


def device_here(name: str, devices: int) -> str:
    """Return the device that Lightning will give to this process, such as ``"cuda:3"`` to the fourth of a node.

    Args:
        name: Name of a device, see `ctxvision.devices.resolved`.
        devices: Number of devices of the run on each node.
    """
    device, place = resolved(name), os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID")
    return f"{device}:{place}" if device == "cuda" and devices > 1 and place else device


def say(*lines: str) -> None:
    """Log lines as warnings, in the first process only."""
    if not rank():
        for line in lines:
            log.warning(line)


def rendezvous(device: torch.device) -> None:
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
