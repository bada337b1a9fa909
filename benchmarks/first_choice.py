"""Which network for few pictures: small ones and timm's, trained from nothing on some 200 by one recipe.

python -m benchmarks.first_choice --seeds 3
python -m benchmarks.first_choice --report
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import timm
import torch

from benchmarks import machine, rows
from benchmarks.recipes.run import digit_files
from benchmarks.settings import RESULTS, Settings
from benchmarks.table import markdown
from ctxvision.data.images.emoji.source import rendered
from ctxvision.runs import RunFolder
from ctxvision.training import train

COLUMNS = (
    *machine.COLUMNS, "data", "model", "seed", "recipe", "epochs", "pictures", "tested", "top1", "cpu_s",
    "params_m",
)  # fmt: skip
NETWORKS = (
    "cotnet_micro",
    "rednet_micro",
    "contextual_resnet_micro",
    "contextual_convnext_micro",
    "resnet18",
    "convnext_atto",
)
DATA = ("things", "digits")
EPOCHS = 40
_OTHERS = ("twemoji", "fluent-emoji-flat")
"""The artists whose drawings are for the test."""
_SHOWN = 5
"""So many of each kind are shown in training, drawn by the other artists; the rest is seen in the test alone."""
_PER_DIGIT = 20
KINDS = {
    "vehicle": "automobile taxi bus police-car delivery-truck ambulance racing-car minibus",
    "animal": "cow-face dog-face cat-face tiger-face pig-face panda bear rabbit-face",
    "bird": "bird chicken penguin rooster baby-chick front-facing-baby-chick duck owl",
    "flower": "tulip rose sunflower hibiscus cherry-blossom blossom bouquet",
    "fruit": "red-apple pear lemon peach strawberry tangerine pineapple banana",
    "fish": "fish tropical-fish blowfish dolphin whale spouting-whale shark",
    "tree": "deciduous-tree palm-tree christmas-tree cactus evergreen-tree herb seedling",
    "building": "school hospital hotel bank church house convenience-store office-building",
}


def things(work: Path) -> Path:
    """Return a folder with 8 kinds of things as several artists drew them; made once.

    Args:
        work: The folder to put it in.
    """
    folder, drawings = work / "things", rendered(64)
    index = json.loads((drawings / "classes.json").read_text(encoding="utf-8"))
    known = {name: (code, artists) for code, name, artists in index}
    if folder.exists():
        return folder
    unfinished = work / "things.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    for kind, names in KINDS.items():
        for number, name in enumerate(names.split()):
            code, artists = known[name]
            for artist in artists:
                part = "val" if artist in _OTHERS else "train" if number < _SHOWN else None
                if part:
                    target = unfinished / part / kind / f"{name}-{artist}.png"
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(drawings / code / f"{artist}.png", target)
    unfinished.rename(folder)
    return folder


def few_digits(work: Path) -> Path:
    """Return a folder with 20 handwritten digits of each class to train on, and all that are held out; made once.

    Args:
        work: The folder to put it in.
    """
    folder, everything = work / "few-digits", digit_files(work)
    if folder.exists():
        return folder
    unfinished = work / "few-digits.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(everything / "val", unfinished / "val")
    for source in sorted((everything / "train").iterdir()):
        target = unfinished / "train" / source.name
        target.mkdir(parents=True)
        for file in sorted(source.iterdir())[:_PER_DIGIT]:
            shutil.copy(file, target)
    unfinished.rename(folder)
    return folder


def trained(data: str, model: str, seed: int, work: Path) -> dict[str, object]:
    """Train once, and return the columns of the row that are not the machine's.

    Args:
        data: One of `DATA`.
        model: Name of a network, ours or timm's.
        seed: Of weights, order and augmentation.
        work: Folder for the pictures.
    """
    source = things(work) if data == "things" else few_digits(work)
    classes = len(list((source / "train").iterdir()))
    count = {part: sum(file.is_file() for file in (source / part).rglob("*")) for part in ("train", "val")}
    with tempfile.TemporaryDirectory(prefix="run-", dir=work) as folder:
        began = time.process_time()
        train(
            model, source, recipe="small", epochs=EPOCHS, seed=seed, out=folder, workers=0, accelerator="cpu",
            logger=["csv"], pictures=False, val_every=EPOCHS,
        )  # fmt: skip
        seconds = time.process_time() - began
        last = RunFolder(folder).read_metrics()[-1]
    return {
        "data": data, "model": model, "seed": seed, "recipe": "small", "epochs": EPOCHS,
        "pictures": count["train"],
        "tested": count["val"], "top1": last["val_top1"], "cpu_s": seconds,
        "params_m": sum(p.numel() for p in timm.create_model(model, num_classes=classes).parameters()) / 1e6,
    }  # fmt: skip


def report(out: Path) -> str:
    """Return a table with the mean over the seeds, the best first.

    Args:
        out: CSV file of the rows.
    """
    found = rows.read(out)
    lines = []
    for model in NETWORKS:
        line: list[str] = [f"`{model}`"]
        for data in DATA:
            mine = [row for row in found if (row["model"], row["data"]) == (model, data)]
            if not line[1:] and mine:
                line.append(f"{float(mine[0]['params_m']):.1f}")
            top1, seconds = ([float(row[name]) for row in mine] for name in ("top1", "cpu_s"))
            if not mine:
                line += ["–", "–"]
                continue
            span = f" ({min(top1):.0%} to {max(top1):.0%})" if len(mine) > 1 else ""
            line += [f"{statistics.mean(top1):.0%}{span}".replace("%", " %"), f"{statistics.median(seconds):.0f}"]
        lines.append(line)
    header = [
        "network",
        "parameters (M)",
        *(f"{data}{what}" for data in DATA for what in (": right", ": CPU (s)")),
    ]
    return markdown(header, lines)


def main() -> None:
    """Train what the file lacks, a seed of all networks at a time, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="train with seeds 0, 1, … (default: %(default)s)")
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--out", type=Path, default=RESULTS / "first-choice.csv", help="(default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "ctxvision-first-choice"))
    parser.add_argument("--report", action="store_true", help="train nothing, only print the table")
    args = parser.parse_args()
    settings = Settings(torch.device("cpu"), torch.float32, 1, 32, 1, 0)
    settings.apply()
    args.work.mkdir(parents=True, exist_ok=True)
    jobs = [(data, model, seed) for seed in range(args.seeds) for data in args.data for model in NETWORKS]
    for data, model, seed in jobs if not args.report else ():
        done = rows.read(args.out) if args.out.exists() else []
        if not any((row["data"], row["model"], row["seed"]) == (data, model, str(seed)) for row in done):
            row = {**machine.describe(settings), **trained(data, model, seed, args.work)}
            rows.append(args.out, COLUMNS, [row])
            print(f"{data} {model} seed {seed}: {row['top1']:.1%} in {row['cpu_s']:.0f} s", flush=True)
    print(report(args.out))


if __name__ == "__main__":
    main()
