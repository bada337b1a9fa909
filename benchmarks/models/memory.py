"""Peak memory of a training step: ``python -m benchmarks.models.memory``, one fresh process per network."""

import argparse
import json
import subprocess
import sys

import torch

from benchmarks.models.networks import Steps, build, random_batch
from benchmarks.settings import ROOT, Settings
from ctxvision.nn.layouts import Layout, to_layout
from ctxvision.timing.memory import high_water, load_libraries

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
    load_libraries(where)
    before = high_water(where)
    model = build(name).to(where).train()
    to_layout(model, layout)
    steps, data = Steps(model, autocast), random_batch(size, batch, layout, where)
    for _ in range(STEPS):
        steps.train(data)
    return (high_water(where) - before) / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arguments", type=json.loads, help="JSON, the arguments of `peak`")
    print(peak(**parser.parse_args().arguments))
