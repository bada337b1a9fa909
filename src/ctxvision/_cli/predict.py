"""``ctxvision predict``: the most probable classes of images."""

import csv
import io
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import write_whole
from .messages import note, plural, quieten
from .workers import add_workers, workers_for

COLUMNS = ("image", "rank", "class", "probability")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help=".ckpt file of `ctxvision train`, or .onnx or .pt2 of `ctxvision export`",
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, and folders of them")
    parser.add_argument(
        "--top_k", type=int, default=5, metavar="K", help="classes per image; default: %(default)s"
    )
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table", help="default: %(default)s")
    parser.add_argument("--out", metavar="FILE", help="write to FILE instead of the terminal")
    parser.add_argument("--batch_size", type=int, default=32, metavar="N", help="default: %(default)s")
    add_workers(parser)
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, mps, …")
    parser.add_argument("--strict", action="store_true", help="stop at the first bad image")


def run(args: Namespace) -> int:
    """Print or write the predictions; 1 if no image could be read. See `ctxvision predict --help`."""
    if min(args.top_k, args.batch_size) < 1 or (args.workers or 0) < 0:
        raise UserError("--top_k and --batch_size must be at least 1, --workers at least 0", 2)
    quieten()
    from .classify import classify, open_classifier

    compute, spec = open_classifier(args.checkpoint, args.device)
    paths = _expand(args.images)
    workers = workers_for(len(paths), args.batch_size) if args.workers is None else args.workers
    bad = 0
    predictions: list[dict[str, Any]] = []
    for path, outcome in classify(compute, spec, paths, args.top_k, args.batch_size, workers):
        if isinstance(outcome, str):
            if args.strict:
                raise UserError(f"{path}: {outcome}")
            note(f"skipped {path}: {outcome}")
            bad += 1
        else:
            predictions.append(
                {"image": path, "predictions": [{"class": name, "probability": p} for name, p in outcome]}
            )
    text = {"table": _table, "csv": _csv, "json": _json}[args.format](predictions)
    if args.out:
        write_whole(args.out, text)
    elif predictions or args.format != "table":
        sys.stdout.write(text)
    if bad:
        note(f"skipped {plural(bad, 'bad image')} of {len(paths)}")
    return 0 if predictions else 1


def _expand(words: Iterable[str]) -> list[str]:
    """Replace folders by the images below them."""
    from ctxvision.data import list_images

    paths: list[str] = []
    for word in words:
        if not Path(word).is_dir():
            paths.append(word)
            continue
        found = list_images(word)
        if not found:
            raise UserError(f"{word}: no images in this folder")
        paths += found
    return paths


def _table(predictions: list[dict[str, Any]]) -> str:
    width = max((len(p["image"]) for p in predictions), default=0)
    lines = [
        f"{p['image']:{width}}  " + "  ".join(f"{q['class']} {q['probability']:.1%}" for q in p["predictions"])
        for p in predictions
    ]
    return "".join(f"{line}\n" for line in lines)


def _csv(predictions: list[dict[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for p in predictions:
        for rank, q in enumerate(p["predictions"], 1):
            writer.writerow((p["image"], rank, q["class"], f"{q['probability']:.6f}"))
    return text.getvalue()


def _json(predictions: list[dict[str, Any]]) -> str:
    return json.dumps(predictions, indent=2) + "\n"
