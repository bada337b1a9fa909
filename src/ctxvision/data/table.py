"""A table of paths and labels: one image per row of a CSV or TSV file."""

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path

from .error import DataError
from .files import in_words, open_regular
from .labelled import DEFAULT_SPLIT, Found, LabelledSet, SplitRule, arrange, in_order
from .options import check_options, choose_column

PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "classname", "category", "target", "label_name")
SPLIT_COLUMNS = ("split", "subset", "set", "partition")
_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
_MOST_HEADER = 100_000  # characters; a field of a table has at most 131,072
_PART = {name: part for part, names in _SPLITS.items() for name in names}


def read_table(
    file: str | os.PathLike[str],
    *,
    options: Mapping[str, str] | None = None,
    strict: bool = False,
    split: SplitRule = DEFAULT_SPLIT,
) -> LabelledSet:
    """Read a table whose first row names its columns: ``path,label`` and perhaps ``split``.

    Other usual names of the columns are understood. Paths are relative to the table. Rows without a path or
    a label, rows that appear twice and files that do not exist are counted and left out. Without a split
    column, or where it names one part only, a share of each class is held out; the rows are then known by
    their paths, in whatever order they come.

    Args:
        file: The path of the table; ``.tsv`` is separated by tabs, ``.csv`` by commas or, as spreadsheets write
            it, semicolons.
        options: The options of DATA: ``path``, ``label`` and ``split`` name columns.
        strict: Whether the first row that would be left out raises an error.
        split: The rule that says which rows are held out where the table names no parts, and which classes there
            are.

    Raises:
        DataError: There is no such file or no such column, one path has two labels or is in two parts, or there
            are no rows.
    """
    file = Path(file)
    options = check_options(str(file), options, ("path", "label", "split"))
    rows = _Rows(file, strict)
    rows.read(options)
    parts = rows.parts
    train, val = parts.get("train"), parts.get("val", parts.get("test"))
    if len(parts) == 1:
        train, val = next(iter(parts.values())), None
    elif train is None and not split.class_names:
        raise DataError(f"{file}: no row is for training")
    elif "val" not in parts:
        rows.notes.append(f"{file}: no rows for validation, validating on those for testing")
    elif "test" in parts:
        rows.notes.append(f"{file}: {sum(map(len, parts['test'].values()))} rows for testing are left out")
    labelled = arrange(
        _sorted(train or {}),
        None if val is None else _sorted(val),
        where=str(file),
        where_val=f"{file} (validation)",
        split=split,
    )
    labelled.notes[:0] = rows.summary() + rows.notes
    labelled.root = str(file.parent)
    return labelled


def _sorted(found: Found) -> Found:
    return {name: dict(sorted(found[name].items())) for name in in_order(list(found))}


class _Rows:
    """The rows of a table as they are read: what is good by part and class, what is not by reason."""

    def __init__(self, file: Path, strict: bool) -> None:
        self.file = file
        self.strict = strict
        self.parts: dict[str, Found] = {}
        self.notes: list[str] = []
        self._lines: dict[str, list[int]] = {}
        self._first: dict[str, tuple[str, str, int]] = {}

    def read(self, options: Mapping[str, str]) -> None:
        try:
            # a spreadsheet's byte order mark is passed over
            with io.TextIOWrapper(open_regular(self.file), encoding="utf-8-sig", newline="") as file:
                header = file.readline(_MOST_HEADER)
                if len(header) == _MOST_HEADER:
                    raise csv.Error(f"its first line has more than {_MOST_HEADER} characters")
                file.seek(0)
                reader = csv.DictReader(file, delimiter=self._delimiter(header), skipinitialspace=True)
                self._read(reader, options)
        except OSError as error:
            raise DataError(f"{self.file}: {in_words(error)}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{self.file}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
        except csv.Error as error:
            raise DataError(f"{self.file}: not a table ({error})") from error
        if not self.parts:
            reasons = "; ".join(line.partition(": ")[2] for line in self.summary())
            raise DataError(f"{self.file}: no usable rows" + (f": {reasons}" if reasons else ""))

    def _delimiter(self, header: str) -> str:
        if self.file.suffix.lower() == ".tsv":
            return "\t"
        return ";" if ";" in header and "," not in header else ","

    def _read(self, reader: "csv.DictReader[str]", options: Mapping[str, str]) -> None:
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        where = str(self.file)
        path_column = choose_column(where, columns, "path", PATH_COLUMNS, options)
        label_column = choose_column(where, columns, "label", LABEL_COLUMNS, options)
        split_column = choose_column(where, columns, "split", SPLIT_COLUMNS, options, needed=False)
        for row in reader:
            line = reader.line_num
            path = (row[path_column] or "").strip()
            label = (row[label_column] or "").strip()
            if not path or not label:
                self._leave_out("without a path" if not path else "without a label", line)
            else:
                self._add(path, label, self._part(row, split_column, line), line)

    def _part(self, row: Mapping[str, str | None], column: str | None, line: int) -> str:
        if column is None:
            return "train"
        name = (row[column] or "").strip()
        if name.lower() not in _PART:
            raise DataError(f"{self.file}, line {line}: {column} must be train, val or test, got {name!r}")
        return _PART[name.lower()]

    def _add(self, path: str, label: str, part: str, line: int) -> None:
        key = os.path.normpath(path).replace(os.sep, "/")
        if key in self._first:
            before = self._first[key]
            for what, old, new in (("label", before[0], label), ("part", before[1], part)):
                if old != new:
                    raise DataError(
                        f"{self.file}, line {line}: {path} has the {what} {new!r}, but {old!r} in line {before[2]}"
                    )
            return self._leave_out("that repeat an earlier one", line)
        self._first[key] = label, part, line
        name = os.path.join(self.file.parent, path)
        if not os.path.isfile(name):
            return self._leave_out("whose file does not exist", line, path)
        self.parts.setdefault(part, {}).setdefault(label, {})[key] = name

    def _leave_out(self, reason: str, line: int, path: str = "") -> None:
        if self.strict:
            raise DataError(
                f"{self.file}, line {line}: rows {reason} are not allowed here{f' ({path})' if path else ''}"
            )
        self._lines.setdefault(f"rows {reason}", []).append(line)

    def summary(self) -> list[str]:
        """Say what was left out, one line for each reason."""
        return [
            f"{self.file}: {len(lines)} {reason} are left out (line {', '.join(map(str, lines[:3]))}"
            f"{', …' if len(lines) > 3 else ''})"
            for reason, lines in self._lines.items()
        ]
