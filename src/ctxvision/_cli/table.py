"""Rows of values as an aligned table, CSV or JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from ctxvision.foreign import csv_text, finite_values, json_text, visible


def write_rows(rows: Sequence[Mapping[str, Any]], heads: Mapping[str, str], style: str) -> str:
    """Format rows.

    Args:
        rows: Values by column, for each row.
        heads: Words of the table for each column, in order; CSV and JSON have their own names.
        style: Format of the text, ``"table"``, ``"csv"`` or ``"json"``.
    """
    if style == "json":
        return json_text(finite_values(rows), indent=2) + "\n"
    if style == "csv":
        return csv_text([list(heads), *([row[column] for column in heads] for row in rows)])
    cells = [["–" if row[column] is None else visible(row[column]) for column in heads] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads.values(), *cells, strict=True)]
    is_number = [any(isinstance(row[column], int | float) for row in rows) for column in heads]
    lines = [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, is_number, strict=True)
        )
        for line in (list(heads.values()), *cells)
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)
