"""``ctxvision compare``: several training runs in one table."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from ctxvision.files import write_whole
from ctxvision.foreign import markdown
from ctxvision.wording import plural

from .files import require_places
from .messages import note, quieten, say_all, write_rows

_HEADS = {
    "run": "run",
    "model": "model",
    "metric": "metric",
    "best": "best (%)",
    "difference": "difference",
    "best_epoch": "in epoch",
    "epochs": "epochs",
    "parameters_m": "parameters (M)",
    "minutes": "minutes",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="+", help="run folders of `ctxvision train`, of any task")
    add(
        "--against",
        metavar="RUN",
        help="run that the others are compared with, such as that of the plain network under the same settings",
    )
    add(
        "--format",
        choices=("table", "csv", "markdown", "json"),
        default="table",
        help="format of the output; default: %(default)s",
    )
    add("--out", metavar="FILE", help="write to FILE instead of the terminal")


def run(args: Namespace) -> int:
    """Print or write the table; see `ctxvision compare --help`."""
    require_places(out=args.out)
    quieten()
    from ctxvision.evaluation import compare_runs

    found = compare_runs(args.runs, against=args.against)
    rows = found.rows()
    heads = {column: _HEADS.get(column, column) for column in rows[0]}
    if args.format == "markdown":
        text = _markdown(rows, heads)
    else:
        text = write_rows(rows, heads, args.format)
    if args.out:
        write_whole(args.out, text)
        note(f"{plural(len(rows), 'run')} compared, written to {args.out}")
    else:
        say_all(text)
    for line in found.notes():
        note(line)
    return 0


def _markdown(rows: Sequence[Mapping[str, Any]], heads: Mapping[str, str]) -> str:
    numeric = [any(isinstance(row[column], int | float) for row in rows) for column in heads]
    lines = [
        list(heads.values()),
        ["---:" if number else "---" for number in numeric],
        *(["–" if row[column] is None else markdown(row[column]) for column in heads] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
