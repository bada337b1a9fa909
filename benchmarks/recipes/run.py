"""All runs that the file lacks, each appended as it ends; and what follows from them."""

import hashlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, rows
from benchmarks.recipes.pictures import MAKERS, digit_files
from benchmarks.recipes.plan import DATA, SIDES, Pair, Side, pairs, settings_of
from benchmarks.settings import Settings
from benchmarks.table import markdown
from ctxvision.recipes import load_recipe
from ctxvision.runs import RunFolder
from ctxvision.training import train

COLUMNS = (
    *machine.COLUMNS, "fingerprint", "recipe", "task", "family", "side", "model", "seed", "steps", "batch", "lr",
    "metric", "value", "chance", "loss", "seconds",
)  # fmt: skip
_EPOCHS_BEFORE = 8  # of digits, before a dense task
_TESTED = {"val_top1": 360, "val_miou": 400, "val_box_ap50": 146}  # samples, digits of boards and of sheets


def fingerprint(pair: Pair, side: Side, steps: int | None) -> str:
    """Return a hash of all that a run depends on beside its seed."""
    recipe = load_recipe(pair.recipe)
    data = DATA[recipe.task]
    everything = [recipe.settings, dict(recipe.models), data.source, data.size, settings_of(pair, side, 0, steps)]
    return hashlib.sha256(json.dumps(everything, sort_keys=True, default=list).encode()).hexdigest()[:12]


def selected(only: Sequence[str] | None) -> list[Pair]:
    """Return the pairs whose recipe or family holds one of the texts; all without texts.

    Raises:
        ValueError: There is none.
    """
    found = [pair for pair in pairs() if not only or any(text in " ".join(pair) for text in only)]
    if not found:
        raise ValueError(f"--only {' '.join(only or ())}: no such recipe; there are "
                         f"{', '.join(dict.fromkeys(pair.recipe for pair in pairs()))}")  # fmt: skip
    return found


def run(
    wanted: Sequence[Pair], seeds: int, settings: Settings, out: Path, work: Path, steps: int | None = None
) -> int:
    """Train what is missing, both sides of a pair in turn; return how many runs there were.

    Args:
        wanted: The pairs.
        seeds: Seeds 0 to ``seeds - 1``.
        settings: Threads.
        out: CSV file.
        work: Folder for the digits as files and for the weights that dense tasks start from.
        steps: The number of optimiser steps; by default that of the data.

    Raises:
        SchemaError: If ``out`` holds other columns.
    """
    rows.check(out, COLUMNS)
    done = {(row["fingerprint"], row["seed"]) for row in (rows.read(out) if out.exists() else ())}
    jobs = [
        (pair, side, seed)
        for seed in range(seeds)
        for pair in wanted
        for side in SIDES
        if (fingerprint(pair, side, steps), str(seed)) not in done
    ]
    print(f"{len(jobs)} of {len(wanted) * len(SIDES) * seeds} runs to do", flush=True)
    settings.apply()
    for number, (pair, side, seed) in enumerate(jobs, 1):
        row = {**machine.describe(settings), "fingerprint": fingerprint(pair, side, steps)}
        row |= trained(pair, side, seed, work, steps)
        rows.append(out, COLUMNS, [row])
        what = f"{pair.recipe} {pair.family} {side} seed {seed}"
        print(
            f"{number}/{len(jobs)} {what}: {row['metric']} {row['value']:.1f} % in {row['seconds']:.0f} s",
            flush=True,
        )
    return len(jobs)


def trained(pair: Pair, side: Side, seed: int, work: Path, steps: int | None) -> dict[str, Any]:
    """Train once and return the columns of the row that are not the machine's."""
    recipe, asked = load_recipe(pair.recipe), settings_of(pair, side, seed, steps)
    data = DATA[recipe.task]
    source = str(MAKERS[data.source](work, data.size)) if data.source in MAKERS else data.source
    if "init_from" in recipe.requires:
        asked["init_from"] = str(weights(pair, side, work, steps))
        asked["init_partial"] = True
    with tempfile.TemporaryDirectory(prefix="run-", dir=work) as folder:
        began = time.perf_counter()
        train(data=source, recipe=pair.recipe, task=recipe.task, out=folder, **asked)
        seconds = time.perf_counter() - began
        last = RunFolder(folder).read_metrics()[-1]
    shares = 100.0 if (last[data.metric] or 0.0) <= 1 else 1.0
    return {
        "recipe": pair.recipe, "task": recipe.task, "family": pair.family, "side": side, "model": asked["model"],
        "seed": seed, "steps": asked["epochs"] * (data.size // data.batch), "batch": data.batch, "lr": asked["lr"],
        "metric": data.metric, "value": (last[data.metric] or 0.0) * shares, "chance": data.chance,
        "loss": last.get("train_loss") or math.nan, "seconds": seconds,
    }  # fmt: skip


def weights(pair: Pair, side: Side, work: Path, steps: int | None) -> Path:
    """Return a classifier of digits, trained once by `small`: recipes of dense tasks ask for one to start from."""
    asked = settings_of(pair, side, 0, steps)
    arguments = {name: value for name, value in (asked.get("model_args") or {}).items() if "stem" not in name}
    epochs = _EPOCHS_BEFORE if steps is None else 1
    which = json.dumps([asked["model"], arguments, epochs], sort_keys=True).encode()
    folder = work / f"weights-{asked['model']}-{hashlib.sha256(which).hexdigest()[:8]}"
    if not RunFolder(folder).best.exists():
        shutil.rmtree(folder, ignore_errors=True)
        train(
            asked["model"], str(digit_files(work)), recipe="small", out=folder, image_size=32,
            epochs=epochs, warmup_epochs=0.5, batch_size=64, workers=0, accelerator="cpu",
            logger=["csv"], pictures=False, crop_pct=1.0, model_args=arguments or None,
        )  # fmt: skip
    return folder


def report(out: Path, wanted: Sequence[Pair], steps: int | None = None) -> str:
    """Return a table: the mean of each side, and whether the network learns and keeps up with the plain one."""
    found = rows.read(out) if out.exists() else []
    lines = []
    for pair in wanted:
        values: dict[str, list[float]] = {}
        for side in SIDES:
            key = fingerprint(pair, side, steps)
            values[side] = [float(row["value"]) for row in found if row["fingerprint"] == key]
        if not all(values.values()):
            lines.append([*pair, "", *["–"] * 6])
            continue
        data = DATA[load_recipe(pair.recipe).task]
        ours, plain = (sum(values[side]) / len(values[side]) for side in SIDES)
        errors = (
            _error(mean, data.metric, len(values[side])) for side, mean in zip(SIDES, (ours, plain), strict=True)
        )
        noise = 2 * math.hypot(*errors)
        learns = ours > data.chance + max(5.0, noise)
        keeps_up = ours >= plain - noise
        seeds = min(map(len, values.values()))
        lines.append(
            [*pair, data.metric.removeprefix("val_"), seeds, f"{data.chance:.0f}", f"{ours:.1f}", f"{plain:.1f}",
             f"{noise:.1f}", "yes" if learns and keeps_up else "learns" if learns else "no"]
        )  # fmt: skip
    header = ["recipe", "family", "metric", "seeds", "chance", "ours", "plain", "noise", "learns and keeps up"]
    return markdown(header, lines, left=3)


def _error(value: float, metric: str, runs: int) -> float:
    """Return the standard error of a share in per cent, at least 1 (nearly all right is not all certain)."""
    return max(1.0, 100 * math.sqrt(max(value, 1) / 100 * max(0.0, 1 - value / 100) / (_TESTED[metric] * runs)))
