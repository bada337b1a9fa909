"""The launcher of the processes of a run, their number, and whether this is a restart."""

import os
import socket
from pathlib import Path
from typing import NamedTuple

from ctxvision.training.error import OptionError
from ctxvision.wording import plural

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
