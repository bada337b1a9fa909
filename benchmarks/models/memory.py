"""Peak memory of a training step: ``python -m benchmarks.models.memory``, one fresh process per network."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks.models.networks import Steps, build, random_batch, to_layout
from benchmarks.settings import ROOT, Layout, Settings

STEPS = 3  # the first makes the momentum, the others find it


def peak_in_fresh_process(name: str, size: int, layout: Layout, settings: Settings) -> float:
    """Return the MiB that weights, gradients, momentum and a training step need at their highest."""
    arguments = {
        "name": name, "size": size, "layout": layout, "batch": settings.batch, "threads": settings.threads,
        "device": str(settings.device), "autocast": settings.dtype == torch.bfloat16,
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.models.memory", json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"peak memory of {name}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.split()[-1])


def peak(name: str, size: int, layout: Layout, batch: int, threads: int, device: str, autocast: bool) -> float:
    """Return the same for this process, which must not have held anything large before."""
    torch.set_num_threads(threads)
    where = torch.device(device)
    _load_libraries(where)
    before = _high_water(where)
    model = build(name).to(where).train()
    to_layout(model, layout)
    steps, data = Steps(model, autocast), random_batch(size, batch, layout, where)
    for _ in range(STEPS):
        steps.train(data)
    return (_high_water(where) - before) / 2**20


def _load_libraries(device: torch.device) -> None:
    """Train something tiny, so that code pages and thread stacks count as there before."""
    tiny = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.LazyLinear(4)).to(device)
    tiny(torch.randn(2, 3, 16, 16, device=device)).sum().backward()


def _high_water(device: torch.device) -> int:
    """Return the most bytes that this process ever held: on CUDA allocated, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss starts at what the parent process held
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arguments", type=json.loads, help="JSON, the arguments of `peak`")
    print(peak(**parser.parse_args().arguments))
