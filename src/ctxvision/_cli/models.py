"""``ctxvision models``: the networks of this library."""

import csv
import fnmatch
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from ctxvision.wording import did_you_mean

from .messages import UserError, say_all, write_rows
from .options import add_shared

COLUMNS = {
    "name": "model",
    "params_m": "params (M)",
    "gmacs": "GMACs",
    "input_size": "input",
    "top1": "top-1",
    "source": "source of top-1",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "pattern",
        metavar="PATTERN",
        nargs="?",
        default="*",
        help="part of a name, or a pattern such as *cot*50, that the listed names match",
    )
    add_shared(parser, "format")


def run(args: Namespace) -> int:
    """Print the networks; see `ctxvision models --help`."""
    # counted by tools/models_table.py: to build the networks takes seconds
    with (Path(__file__).parents[1] / "models" / "networks.csv").open(encoding="utf-8", newline="") as file:
        networks = {row["name"]: row for row in csv.DictReader(file)}
    names = [n for n in networks if fnmatch.fnmatch(n, args.pattern) or args.pattern in n]
    if not names:
        near = did_you_mean(args.pattern, networks)
        raise UserError(f"no model matches {args.pattern!r}{near}; `ctxvision models` lists all")
    say_all(write_rows([_described(networks[name]) for name in names], COLUMNS, args.format))
    return 0


def _described(row: dict[str, str]) -> dict[str, Any]:
    return {
        "name": row["name"],
        "params_m": round(int(row["params"]) / 1e6, 3),
        "gmacs": round(int(row["macs"]) / 1e9, 3),
        "input_size": row["input_size"],
        "top1": float(row["top1"]) if row["top1"] else None,
        "source": row["source"] or None,
    }
