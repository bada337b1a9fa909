"""Who started the processes of a run, how many there are, and whether they have begun it before."""

import os
import socket
from pathlib import Path
from typing import NamedTuple

from ctxvision.training.error import OptionError
from ctxvision.wording import plural

_NAMELESS = ("", "none")  # what torchrun calls its runs unless told


class Launch(NamedTuple):
    """What has started this process as one of several."""

    by: str
    """``torchrun`` or ``SLURM``."""
    devices: int
    """Processes on each node."""
    nodes: int
    run: str
    """Alike in all attempts at one run, which is begun again when a process or a node has failed."""
    restarts: int
    """Earlier attempts; where nodes come and go it may be 0 in a later one."""
    repeats: bool
    """Whether an earlier attempt is possible."""


def launched() -> Launch | None:
    """Read torchrun's and SLURM's variables, in the order of Lightning, which will follow them.

    Returns:
        ``None`` where ``ctxvision train`` itself starts the other processes.

    Raises:
        TrainingError: nodes with different numbers of processes.
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
        devices: as the user set it; ``None`` is open.
        nodes: likewise.

    Raises:
        TrainingError: other numbers of processes have been started.
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
