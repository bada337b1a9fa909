"""Gate, time, print and record the networks."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, rows
from benchmarks.models.check import check_network
from benchmarks.models.memory import peak_in_fresh_process
from benchmarks.models.networks import (
    DEFAULT,
    OWN_SIZE,
    SWEPT,
    Steps,
    build,
    random_batch,
    selected,
)
from benchmarks.models.report import best, network_table, sweep_table, target_table
from benchmarks.settings import Settings
from ctxvision.models import count_macs
from ctxvision.nn.layouts import LAYOUTS, Layout, to_layout
from ctxvision.timing.clock import Candidate, Quantiles, quantiles, take_turns
from ctxvision.timing.preparation import set_batch_norm_statistics

COLUMNS = (
    *machine.COLUMNS,
    "sweep", "network", "gmacs", "params_m", "resolution", "batch", "layout", "pass", "p10_ms", "p50_ms", "p90_ms",
    "repeats", "images_s", "gmac_s", "peak_mib",
)  # fmt: skip
SWEEPS = {"resolution": (112, 160, 224, 288, 384, 512), "batch": (1, 2, 4, 8, 16, 32)}
SMOKE_SWEEPS = {"resolution": (32, 64), "batch": (1, 2)}
Row = dict[str, Any]


def run(only: list[str] | None, settings: Settings, out: Path, memory: bool) -> None:
    """Benchmark inference and training steps; append one row per network, format and pass to ``out``.

    Args:
        only: Networks, or ``None`` for the default ones.
        settings: How to measure.
        out: CSV file.
        memory: Whether to measure the peak memory of the training step in the format that trains faster.

    Raises:
        RedGate: If a network computes wrong numbers; no time has been printed then and no row appended.
        SchemaError: If ``out`` holds other columns.
        ValueError: If there is no such network.
    """
    networks = _prepare(selected(only, DEFAULT), settings, out)
    shared = machine.describe(settings)
    found = _measure(networks, settings, ("inference", "training step"), "none")
    if memory:
        for name in networks:
            row = best(found, name, "training step")
            try:
                row["peak_mib"] = peak_in_fresh_process(name, row["resolution"], row["layout"], settings)
            except RuntimeError as error:  # the times are worth keeping
                print(f"{error}; left out", flush=True)
    print(network_table(found), "\n")
    print(target_table(found, settings), "\n")
    _append(out, shared, found)


def sweep(only: list[str] | None, settings: Settings, over: str, out: Path, smoke: bool = False) -> None:
    """Benchmark inference over resolutions or batch sizes; the other arguments and errors are those of `run`."""
    names = selected(only, SWEPT)
    fixed = [name for name in names if name in OWN_SIZE]
    if over == "resolution" and fixed:
        raise ValueError(f"--sweep resolution: {', '.join(fixed)} cannot run at other sizes than its own")
    networks = _prepare(names, settings, out)
    shared = machine.describe(settings)
    values = (SMOKE_SWEEPS if smoke else SWEEPS)[over]
    found: list[Row] = []
    for value in values:
        point = replace(settings, seconds=settings.seconds / len(values))
        point = replace(point, batch=value) if over == "batch" else replace(point, resolution=value)
        found += _measure(networks, point, ("inference",), over)
        print(f"{over} {value} done", flush=True)
    print(sweep_table(found, over), "\n")
    _append(out, shared, found)


def _append(out: Path, shared: dict[str, object], found: Sequence[Row]) -> None:
    rows.append(out, COLUMNS, [shared | row for row in found])
    print(f"{len(found)} rows appended to {out}")


def _prepare(names: Sequence[str], settings: Settings, out: Path) -> dict[str, Steps]:
    """Build the networks and let them through the gate."""
    settings.apply()
    rows.check(out, COLUMNS)
    networks = {}
    for number, name in enumerate(names, 1):
        print(f"gate {number}/{len(names)}: {name}", flush=True)
        size = OWN_SIZE.get(name, settings.resolution)
        model = build(name).to(settings.device)
        set_batch_norm_statistics(model, size)
        networks[name] = Steps(model, settings.dtype == torch.bfloat16)
        check_network(name, networks[name], size)
    print("gate green: finite, equal in both memory formats and with both backends\n", flush=True)
    return networks


def _measure(networks: dict[str, Steps], settings: Settings, passes: Sequence[str], over: str) -> list[Row]:
    """Return the rows of all networks, without the columns that all rows share; every sample takes its turn."""
    candidates, places = {}, {}
    for name, steps in networks.items():
        size = OWN_SIZE.get(name, settings.resolution)
        cost = {
            "gmacs": count_macs(steps.model.eval(), (3, size, size)) / 1e9,
            "params_m": sum(parameter.numel() for parameter in steps.model.parameters()) / 1e6,
        }
        for layout in LAYOUTS:
            batch = random_batch(size, settings.batch, layout, settings.device)
            for which in passes:
                training = which == "training step"
                prepare = partial(_ready, steps, layout, training)
                call = partial(steps.train if training else steps.infer, batch)
                key = f"{name}/{layout}/{which}"
                candidates[key] = Candidate(call, prepare)
                places[key] = {
                    "sweep": over, "network": name, **cost, "resolution": size, "batch": settings.batch,
                    "layout": layout, "pass": which,
                }  # fmt: skip
    samples = take_turns(candidates, settings.device, settings.repeats, settings.seconds)
    return [place | _speeds(quantiles(samples[key]), place) for key, place in places.items()]


def _ready(steps: Steps, layout: Layout, training: bool) -> None:
    to_layout(steps.model, layout)
    steps.model.train(training)


def _speeds(time: Quantiles, place: Row) -> Row:
    images_s = place["batch"] / time.p50 * 1e3
    # a training step costs three times the forward pass: the gradients of inputs and of weights
    forwards = 3 if place["pass"] == "training step" else 1
    return {
        "p10_ms": time.p10, "p50_ms": time.p50, "p90_ms": time.p90, "repeats": time.repeats, "images_s": images_s,
        "gmac_s": images_s * place["gmacs"] * forwards, "peak_mib": "",
    }  # fmt: skip
