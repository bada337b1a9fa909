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

import numpy as np
from PIL import Image

from benchmarks import machine, rows
from benchmarks.recipes.plan import DATA, SIDES, Pair, Side, pairs, settings_of
from benchmarks.settings import Settings
from benchmarks.table import markdown
from ctxvision.data.embedded.digits import CLASS_NAMES, digit_keys, held_out_digits, load_digits
from ctxvision.recipes import load_recipe
from ctxvision.runs import RunFolder
from ctxvision.training import train

COLUMNS = (
    *machine.COLUMNS, "fingerprint", "recipe", "task", "family", "side", "model", "seed", "steps", "batch", "lr",
    "metric", "value", "chance", "loss", "seconds",
)  # fmt: skip
_SMOOTH = Image.Resampling.BICUBIC
_EPOCHS_BEFORE = 8  # of digits, before a dense task
_TESTED = {"val_top1": 360, "val_miou": 400, "val_box_ap50": 100}  # samples, digits of boards, scenes


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
    source = str(_FOLDERS[data.source](work)) if data.source in _FOLDERS else data.source
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


def digit_files(work: Path) -> Path:
    """Return a folder with the embedded digits as files, held out as everywhere; made once."""
    folder = work / "digits"
    if not folder.exists():
        pixels, targets = load_digits()
        held_out = held_out_digits(digit_keys(targets))
        unfinished = work / "digits.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        for index, (picture, target) in enumerate(zip(pixels.numpy(), targets.tolist(), strict=True)):
            part = unfinished / ("val" if held_out[index] else "train") / str(target)
            part.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(part / f"{index:04d}.png")
        unfinished.rename(folder)
    return folder


def digit_boards(work: Path) -> Path:
    """Return a folder of 2 × 2 digits a picture, each as large as in `digit_files`, and of their masks; made once.

    Scenes are too much for some hundred steps of SGD: after 600 of 8 scenes the mean IoU was 10 %.
    """
    folder = work / "boards"
    if not folder.exists():
        pixels, targets = load_digits()
        held_out = held_out_digits(digit_keys(targets))
        unfinished = work / "boards.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        for split, numbers, count in (("train", ~held_out, DATA["segmentation"].size), ("val", held_out, 100)):
            random = np.random.default_rng(0)
            for kind in ("images", "masks"):
                (unfinished / kind / split).mkdir(parents=True)
            for index in range(count):
                chosen = random.choice(np.flatnonzero(numbers.numpy()), 4)
                tiles = [Image.fromarray(pixels[one].numpy()).resize((32, 32), _SMOOTH) for one in chosen]
                board = np.block([[np.array(a), np.array(b)] for a, b in (tiles[:2], tiles[2:])])
                digits = np.kron(targets[chosen].numpy().reshape(2, 2), np.ones((32, 32), int))
                mask = np.where(board > 127, digits + 1, 0).astype(np.uint8)
                for kind, picture in (("images", board), ("masks", mask)):
                    Image.fromarray(picture).save(unfinished / kind / split / f"{index:03d}.png")
        (unfinished / "classes.txt").write_text("\n".join(("background", *CLASS_NAMES)))
        unfinished.rename(folder)
    return folder


_FOLDERS = {"files": digit_files, "boards": digit_boards}


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
            lines.append([*pair, "", *["–"] * 5])
            continue
        data = DATA[load_recipe(pair.recipe).task]
        ours, plain = (sum(values[side]) / len(values[side]) for side in SIDES)
        errors = (
            _error(mean, data.metric, len(values[side])) for side, mean in zip(SIDES, (ours, plain), strict=True)
        )
        noise = 2 * math.hypot(*errors)
        learns = ours > data.chance + max(5.0, noise)
        keeps_up = ours >= plain - noise
        lines.append(
            [*pair, data.metric.removeprefix("val_"), f"{data.chance:.0f}", f"{ours:.1f}", f"{plain:.1f}",
             f"{noise:.1f}", "yes" if learns and keeps_up else "learns" if learns else "no"]
        )  # fmt: skip
    header = ["recipe", "family", "metric", "chance", "ours", "plain", "noise", "learns and keeps up"]
    return markdown(header, lines, left=3)


def _error(value: float, metric: str, runs: int) -> float:
    """Return the standard error of a share in per cent, at least 1 (nearly all right is not all certain)."""
    return max(1.0, 100 * math.sqrt(max(value, 1) / 100 * max(0.0, 1 - value / 100) / (_TESTED[metric] * runs)))
