"""How much memory a process may still take: of the machine, and of the container that it runs in."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

# of control groups of version 2 and 1: limits, what is taken, and the key of what is taken but is given back
_FILES = (
    (("memory.max", "memory.high"), "memory.current", "inactive_file"),
    (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that are free, or ``None`` where the system does not say.

    Args:
        root: The folder in which Linux has ``proc`` and ``sys``.
    """
    found = list(_of_groups(root))
    with suppress(OSError, StopIteration, ValueError, IndexError):
        lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
        found.append(int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024)
    return min(found, default=None)


def _of_groups(root: Path) -> Iterator[int]:
    """Yield what each control group leaves free that this process is in; each has the limits of those above it."""
    lines = []
    with suppress(OSError, ValueError):
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = 1 if controllers else 2
        top = root / "sys/fs/cgroup" / ("memory" if version == 1 else "")
        place = PurePosixPath(path.lstrip("/"))
        # a container sees its own group as the top, and may still be told the path outside of it
        groups = [top] if ".." in place.parts else [top / place, *(top / parent for parent in place.parents)]
        for group in dict.fromkeys(groups):
            yield from _of_group(group, version)


def _of_group(group: Path, version: int) -> Iterator[int]:
    limits, taken, given_back = _FILES[2 - version]
    for name in limits:
        with suppress(OSError, ValueError):  # such as "max"
            limit = int((group / name).read_text(encoding="ascii"))
            used = int((group / taken).read_text(encoding="ascii"))
            stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
            yield max(0, limit - used + int(stat.get(given_back, 0)))
