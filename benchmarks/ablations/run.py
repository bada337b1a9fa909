"""All runs of the ablations: those that the file lacks, side by side, each appended as it ends."""

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import machine, rows
from benchmarks.ablations.networks import NETWORKS, arguments, cost, names_of
from benchmarks.ablations.settings import ALPHAS, TRIAL_SEEDS, Size
from benchmarks.ablations.train import Outcome, train
from benchmarks.settings import Settings

COLUMNS = (
    *machine.COLUMNS, "fingerprint", "size", "family", "network", "alpha", "seed", "params", "macs", "epochs",
    *Outcome._fields,
)  # fmt: skip
Trainer = Callable[[str, Size, float | None, int, torch.device], Outcome]
Row = Mapping[str, str]


class Job(NamedTuple):
    """One run."""

    network: str
    alpha: float | None
    """Weight of the losses of the stages before the head; ``None`` for a network without."""
    seed: int


def fingerprint(name: str, size: Size, device: torch.device) -> str:
    """Return a hash of all that a run depends on beside α and seed: data, recipe, network, kind of device."""
    network = NETWORKS[name]
    everything: dict[str, Any] = {
        "classes": size.classes, "side": size.side, "recipe": asdict(size.recipes[network.family]),
        "model": network.model, "args": arguments(name, size), "use": network.use, "device": device.type,
    }  # fmt: skip
    if network.offset_lr_scale != 1:
        everything["offset_lr_scale"] = network.offset_lr_scale
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:12]


def selected(only: Sequence[str] | None, size: Size) -> list[str]:
    """Return the networks to train, in the order of the comparison.

    Raises:
        ValueError: If there is no such network.
    """
    known = names_of(size)
    unknown = [name for name in only or () if name not in known]
    if unknown:
        raise ValueError(f"--only: no network {', '.join(unknown)} at this size; there are {', '.join(known)}")
    return [name for name in known if not only or name in only]


def own_rows(path: Path, names: Sequence[str], size: Size, device: torch.device) -> dict[str, list[Row]]:
    """Return the rows of each network that were measured with the settings of now; none if there is no file."""
    by_print: dict[str, list[Row]] = {}
    for row in rows.read(path) if path.exists() else ():
        by_print.setdefault(row["fingerprint"], []).append(row)
    return {name: by_print.get(fingerprint(name, size, device), []) for name in names}


def chosen_alpha(own: Sequence[Row]) -> float | None:
    """Return the weight α that was best on the validation artist, by the trial runs among a network's rows.

    ``None`` if a trial is missing, or the network has no such weight.
    """
    trials: dict[float, list[float]] = {alpha: [] for alpha in ALPHAS}
    for row in own:
        if int(row["seed"]) in TRIAL_SEEDS and row["alpha"] and float(row["alpha"]) in trials:
            trials[float(row["alpha"])].append(float(row["val"]))
    if any(len(found) < len(TRIAL_SEEDS) for found in trials.values()):
        return None
    return max(trials, key=lambda alpha: sum(trials[alpha]))


def alpha_of(name: str, own: Sequence[Row], everywhere: float | None = None) -> float | None:
    """Return the weight α of a network's reported runs: ``everywhere``, or that which its trials have chosen."""
    if everywhere is None or not NETWORKS[name].has_stage_losses:
        return chosen_alpha(own)
    return everywhere


def missing(
    names: Sequence[str], seeds: int, size: Size, device: torch.device, out: Path, alpha: float | None = None
) -> list[Job]:
    """Return the runs that ``out`` lacks, as far as they are known.

    These are the trials for each network with a weight α; if none is missing, the runs with the chosen α, seed by
    seed, so that a comparison is whole as early as possible. With an ``alpha`` given there are no trials.
    """
    own = own_rows(out, names, size, device)
    weighed = [name for name in names if alpha is None and NETWORKS[name].has_stage_losses]
    trials = [Job(name, trial, seed) for seed in TRIAL_SEEDS for name in weighed for trial in ALPHAS]
    chosen = {name: alpha_of(name, own[name], alpha) for name in names}
    reported = [Job(name, chosen[name], seed) for seed in range(seeds) for name in names]

    def lacking(jobs: Sequence[Job]) -> list[Job]:
        done = {(name, row["alpha"], row["seed"]) for name, found in own.items() for row in found}
        return [job for job in jobs if (job.network, written(job.alpha), str(job.seed)) not in done]

    return lacking(trials) or lacking(reported)


def written(alpha: float | None) -> str:
    """Return α as it stands in the file."""
    return "" if alpha is None else f"{alpha:g}"


def run(
    names: Sequence[str],
    seeds: int,
    size: Size,
    settings: Settings,
    out: Path,
    processes: int = 1,
    trainer: Trainer = train,
    most: int | None = None,
    alpha: float | None = None,
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
        most: Number of runs after which to stop; by default none.
        alpha: Weight of the losses before the head, the same for all networks; by default each network's trials
            choose.

    Raises:
        SchemaError: If ``out`` holds other columns.
    """
    rows.check(out, COLUMNS)
    shared = machine.describe(settings)
    costs = {name: cost(name, size) for name in names}
    number = 0
    while jobs := missing(names, seeds, size, settings.device, out, alpha)[
        : None if most is None else most - number
    ]:
        print(f"{len(jobs)} runs to do", flush=True)
        for job, outcome in _outcomes(jobs, size, settings, processes, trainer):
            number += 1
            family = NETWORKS[job.network].family
            row = {
                **shared, "fingerprint": fingerprint(job.network, size, settings.device), "size": size.name,
                "family": family, **job._asdict(), "alpha": written(job.alpha), **costs[job.network]._asdict(),
                "epochs": size.recipes[family].epochs, **outcome._asdict(),
            }  # fmt: skip
            rows.append(out, COLUMNS, [row])
            print(
                f"{job.network} α {job.alpha} seed {job.seed}: validation {outcome.val:.1f} %, test "
                f"{outcome.accuracy:.1f} %, {outcome.seconds:.0f} s",
                flush=True,
            )
    return number


def _outcomes(
    jobs: Iterable[Job], size: Size, settings: Settings, processes: int, trainer: Trainer
) -> Iterator[tuple[Job, Outcome]]:
    if processes == 1:
        settings.apply()
        for job in jobs:
            yield job, trainer(job.network, size, job.alpha, job.seed, settings.device)
        return
    # a forked child would inherit torch's threads and CUDA's state
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=settings.apply) as pool:
        futures = {
            pool.submit(trainer, job.network, size, job.alpha, job.seed, settings.device): job for job in jobs
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)
