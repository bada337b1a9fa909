"""All runs of the ablations: those that the file lacks, side by side, each appended as it ends."""

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import machine, rows
from benchmarks.ablations.networks import NETWORKS, arguments, cost
from benchmarks.ablations.settings import Size
from benchmarks.ablations.train import Outcome, train
from benchmarks.settings import Settings

COLUMNS = (
    *machine.COLUMNS, "fingerprint", "size", "family", "network", "seed", "params", "macs", "epochs", "accuracy",
    "train_accuracy", "kept", "seconds",
)  # fmt: skip
Trainer = Callable[[str, Size, int, torch.device], Outcome]


class Job(NamedTuple):
    """One run."""

    network: str
    seed: int


def fingerprint(name: str, size: Size, device: torch.device) -> str:
    """Return a hash of all that a run depends on beside its seed: data, recipe, network, kind of device."""
    network = NETWORKS[name]
    everything: dict[str, Any] = {
        "scenes": asdict(size.scenes), "recipe": asdict(size.recipes[network.family]), "model": network.model,
        "args": arguments(name, size), "device": device.type,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:12]


def selected(only: Sequence[str] | None) -> list[str]:
    """Return the networks to train, in the order of the comparison.

    Raises:
        ValueError: If there is no such network.
    """
    unknown = [name for name in only or () if name not in NETWORKS]
    if unknown:
        raise ValueError(f"--only: no network {', '.join(unknown)}; there are {', '.join(NETWORKS)}")
    return [name for name in NETWORKS if not only or name in only]


def missing(names: Sequence[str], seeds: int, size: Size, device: torch.device, out: Path) -> list[Job]:
    """Return the runs that ``out`` lacks, seed by seed, so that a comparison is whole as early as possible."""
    done = {(row["fingerprint"], row["seed"]) for row in (rows.read(out) if out.exists() else ())}
    prints = {name: fingerprint(name, size, device) for name in names}
    return [Job(name, seed) for seed in range(seeds) for name in names if (prints[name], str(seed)) not in done]


def run(
    names: Sequence[str],
    seeds: int,
    size: Size,
    settings: Settings,
    out: Path,
    processes: int = 1,
    trainer: Trainer = train,
) -> int:
    """Train what is missing and append a row after each run; return how many runs there were.

    Args:
        names: Networks.
        seeds: Seeds 0 to ``seeds - 1``.
        size: Data and recipe.
        settings: Device and threads of each process.
        out: CSV file.
        processes: Runs at a time.
        trainer: Trains and tests one network.

    Raises:
        SchemaError: If ``out`` holds other columns.
    """
    rows.check(out, COLUMNS)
    jobs = missing(names, seeds, size, settings.device, out)
    print(f"{len(jobs)} of {len(names) * seeds} runs to do", flush=True)
    shared = machine.describe(settings)
    costs = {name: cost(name, size) for name in {job.network for job in jobs}}
    for number, (job, outcome) in enumerate(_outcomes(jobs, size, settings, processes, trainer), 1):
        row = {
            **shared, "fingerprint": fingerprint(job.network, size, settings.device), "size": size.name,
            "family": NETWORKS[job.network].family, **job._asdict(), **costs[job.network]._asdict(),
            "epochs": size.recipes[NETWORKS[job.network].family].epochs, **outcome._asdict(),
        }  # fmt: skip
        rows.append(out, COLUMNS, [row])
        print(
            f"{number}/{len(jobs)} {job.network} seed {job.seed}: {outcome.accuracy:.1f} % in "
            f"{outcome.seconds:.0f} s",
            flush=True,
        )
    return len(jobs)


def _outcomes(
    jobs: Iterable[Job], size: Size, settings: Settings, processes: int, trainer: Trainer
) -> Iterator[tuple[Job, Outcome]]:
    if processes == 1:
        settings.apply()
        for job in jobs:
            yield job, trainer(job.network, size, job.seed, settings.device)
        return
    # a forked child would inherit torch's threads and CUDA's state
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=settings.apply) as pool:
        futures = {pool.submit(trainer, job.network, size, job.seed, settings.device): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)
