"""CSV files that only grow: one header, one schema, whole runs."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path


class SchemaError(Exception):
    """Rows do not fit the file, or the file is not whole."""


def append(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Append rows in one write; write the header first if the file is new.

    Floats keep six significant digits.

    Raises:
        SchemaError: If the file has other columns, its last line is not whole, or a row has other columns;
            nothing is written then.
    """
    for row in rows:
        if set(row) != set(columns):
            odd = ", ".join(sorted(set(row) ^ set(columns)))
            raise SchemaError(f"{path.name}: a row differs from the columns of this schema in {odd}")
    check(path, columns)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if not path.exists() or path.stat().st_size == 0:
        writer.writeheader()
    writer.writerows([{name: _plain(value) for name, value in row.items()} for row in rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    before = os.fstat(descriptor).st_size
    try:
        data = text.getvalue().encode()
        if os.write(descriptor, data) != len(data):  # a full disk
            os.ftruncate(descriptor, before)
            raise OSError(f"{path.name}: could not write all rows, wrote none")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check(path: Path, columns: Sequence[str]) -> None:
    """Raise `SchemaError` unless rows of these columns can be appended to ``path``."""
    if not path.exists() or path.stat().st_size == 0:
        return
    text = path.read_text(encoding="utf-8")
    header = next(csv.reader(io.StringIO(text)))
    if header != list(columns):
        odd = ", ".join(sorted(set(header) ^ set(columns))) or "the order of its columns"
        raise SchemaError(f"{path.name} has another schema, it differs in {odd}; choose another file with --out")
    if not text.endswith("\n"):
        raise SchemaError(f"{path.name}: the last line is not whole")


def read(path: Path) -> list[dict[str, str]]:
    """Return all rows; values are text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _plain(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
