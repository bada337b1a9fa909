"""``ctxvision models``: the networks of this library."""

import csv
import fnmatch
import io
import json
import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from .errors import UserError

COLUMNS = ("name", "params_m", "gmacs", "input_size", "top1", "source")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="part of a name, or *cot*50")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table", help="default: %(default)s")


def run(args: Namespace) -> int:
    """Print the networks; see `ctxvision models --help`."""
    from ctxvision.checkpoints.layout import our_models

    names = [n for n in our_models() if fnmatch.fnmatch(n, args.pattern) or args.pattern in n]
    if not names:
        raise UserError(f"no model matches {args.pattern!r}; `ctxvision models` lists all")
    rows = [_describe(name) for name in names]
    sys.stdout.write({"table": _table, "csv": _csv, "json": _json}[args.format](rows))
    return 0


def _describe(name: str) -> dict[str, Any]:
    import timm
    import torch

    from ctxvision.models import count_macs, paper_result

    with torch.device("meta"):
        model = timm.create_model(name).eval()
    size = model.pretrained_cfg["input_size"]
    result = paper_result(name)
    return {
        "name": name,
        "params_m": round(sum(p.numel() for p in model.parameters()) / 1e6, 3),
        "gmacs": round(count_macs(model, size) / 1e9, 3),
        "input_size": "x".join(map(str, size)),
        "top1": result.top1 if result else None,
        "source": result.source if result else None,
    }


def _table(rows: list[dict[str, Any]]) -> str:
    heads = ("model", "params (M)", "GMACs", "input", "top-1", "source of top-1")
    cells = [["–" if row[c] is None else str(row[c]) for c in COLUMNS] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(w) if 1 <= i <= 4 else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in (heads, *cells)
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _json(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, indent=2) + "\n"
