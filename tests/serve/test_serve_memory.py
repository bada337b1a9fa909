"""How much memory is free, by the files of the machine and of its control groups."""

import pytest

from ctxvision.serve.memory import free_memory

GIB = 2**30
MACHINE = {"proc/meminfo": f"MemTotal: {64 * 2**20} kB\nMemAvailable: {32 * 2**20} kB\n"}


def two(limit, used, *, cached=0, high="max"):
    stat = f"anon 5\ninactive_file {cached}\nactive_file 7\n"
    return {"memory.max": limit, "memory.high": high, "memory.current": used, "memory.stat": stat}


def one(limit, used, *, cached=0):
    stat = f"inactive_file 1\ntotal_inactive_file {cached}\n"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}


def within(folder, files):
    return {f"sys/fs/cgroup/{folder}{name}": content for name, content in files.items()}


@pytest.mark.parametrize(
    ("files", "gibibytes"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 5 kB\n", "proc/self/cgroup": "0::/\n"}, None),
        (MACHINE, 32),
        # version 2: a container that sees its group as the top, with and without a limit
        (MACHINE | {"proc/self/cgroup": "0::/\n"} | within("", two(4 * GIB, 3 * GIB)), 1),
        (MACHINE | {"proc/self/cgroup": "0::/\n"} | within("", two("max", 3 * GIB)), 32),
        (MACHINE | {"proc/self/cgroup": "0::/\n"} | within("", two(4 * GIB, 3 * GIB, cached=2 * GIB)), 3),
        (MACHINE | {"proc/self/cgroup": "0::/\n"} | within("", two(4 * GIB, 5 * GIB)), 0),
        (MACHINE | {"proc/self/cgroup": "0::/\n"} | within("", two("max", 3 * GIB, high=8 * GIB)), 5),
        # a service whose slice has less left than itself, and one without files of its own
        (
            MACHINE
            | {"proc/self/cgroup": "0::/a.slice/b.service\n"}
            | within("a.slice/b.service/", two(9 * GIB, 1 * GIB))
            | within("a.slice/", two(4 * GIB, 2 * GIB)),
            2,
        ),
        (MACHINE | {"proc/self/cgroup": "0::/a/b\n"} | within("a/", two(4 * GIB, 2 * GIB)), 2),
        (MACHINE | {"proc/self/cgroup": "0::/../../c\n"} | within("", two(4 * GIB, 2 * GIB)), 2),
        # version 1: by its path, and in a container where that path is the one outside; without a limit
        (
            MACHINE
            | {"proc/self/cgroup": "5:cpu,memory:/docker/1f\n1:name=systemd:/x\n0::/\n"}
            | within("memory/docker/1f/", one(6 * GIB, 4 * GIB, cached=GIB)),
            3,
        ),
        (
            MACHINE | {"proc/self/cgroup": "5:memory:/docker/1f\n"} | within("memory/", one(6 * GIB, 4 * GIB)),
            2,
        ),
        (MACHINE | {"proc/self/cgroup": "5:memory:/\n"} | within("memory/", one(2**63 - 4096, GIB)), 32),
        # what has nothing to do with memory, or cannot be understood
        (MACHINE | {"proc/self/cgroup": "5:cpuset:/\n"} | within("memory/", one(GIB, GIB)), 32),
        (MACHINE | {"proc/self/cgroup": "0::/\n"} | within("", two("what", 3 * GIB)), 32),
    ],
)
def test_what_is_free_is_the_least_of_machine_and_groups(tmp_path, files, gibibytes):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(str(content))
    free = free_memory(tmp_path)
    assert free == (None if gibibytes is None else gibibytes * GIB)
