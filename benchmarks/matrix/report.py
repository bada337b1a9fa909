"""What the rows of a matrix say: one table for each data type and batch, the targets, the weakest cell."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.matrix.plan import AOT, COMPILED, DTYPES, FOREIGN, FORMS, TARGETS
from benchmarks.table import markdown, number
from benchmarks.targets import Target, verdicts

Row = dict[str, Any]


def latest(rows: Iterable[Row]) -> list[Row]:
    """Return the last row of each cell, with numbers as numbers."""
    cells: dict[tuple[str, ...], Row] = {}
    for row in rows:
        place = ("form", "dtype", "network", "batch", "resolution", "threads", "device")
        cells[tuple(str(row[name]) for name in place)] = row
    figures = ("ratio", "images_s", "difference", "batch", "p50_ms")
    return [row | {name: float(row[name]) for name in figures if row[name] != ""} for row in cells.values()]


def report(rows: Sequence[Row], as_stated: bool) -> str:
    """Return the tables; a cell is images/s over the plain peer's, and images/s in brackets.

    Args:
        rows: Rows with the columns of `benchmarks.matrix.run`.
        as_stated: Whether they have the settings for which the targets are stated.
    """
    found = latest(rows)
    parts = [
        _table([row for row in found if (row["dtype"], row["batch"]) == (dtype, batch)], dtype, batch)
        for dtype in DTYPES
        for batch in sorted({row["batch"] for row in found if row["dtype"] == dtype})
    ]
    parts += [_refused(found), _against_foreign(found), _targets(found, as_stated), _weakest(found)]
    return "\n\n".join(part for part in parts if part)


def _timed(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["outcome"] == "timed"]


def _ours(rows: Iterable[Row]) -> list[Row]:
    return [row for row in _timed(rows) if row["network"] != row["peer"] and row["network"] not in FOREIGN]


def _table(rows: Sequence[Row], dtype: str, batch: float) -> str:
    forms = [form for form in FORMS if any(row["form"] == form for row in rows)]
    networks = dict.fromkeys((row["network"], row["peer"]) for row in rows)
    body = []
    for network, peer in networks:
        its = {row["form"]: row for row in rows if (row["network"], row["peer"]) == (network, peer)}
        cells = [_cell(its.get(form), network == peer) for form in forms]
        body.append((network, "" if network == peer else peer, *cells))
    return f"{dtype}, batch {batch:.0f}: ÷ peer (images/s)\n" + markdown(("network", "peer", *forms), body, left=2)


def _cell(row: Row | None, plain: bool) -> str:
    if row is None:
        return ""
    if row["outcome"] != "timed":
        return row["outcome"].partition(":")[0]  # type: ignore[no-any-return]
    return f"({number(row['images_s'])})" if plain else f"{number(row['ratio'])} ({number(row['images_s'])})"


def _refused(rows: Sequence[Row]) -> str:
    lines = [
        f"- {row['network']}, {row['form']} {row['dtype']}, batch {row['batch']:.0f}: {row['outcome']}"
        for row in rows
        if row["outcome"] != "timed"
    ]
    return "\n".join(["Without a time:", *lines]) if lines else ""


def _against_foreign(rows: Sequence[Row]) -> str:
    """Ours over what other projects make of the same network, both run in the same turn."""
    timed = _timed(rows)
    lines = []
    for row in timed:
        of = FOREIGN[row["network"]].of if row["network"] in FOREIGN else ""
        place = [row[name] for name in ("form", "dtype", "batch", "resolution", "threads", "device")]
        for ours in timed:
            if ours["network"] == of and place == [
                ours[name] for name in ("form", "dtype", "batch", "resolution", "threads", "device")
            ]:
                share = number(ours["images_s"] / row["images_s"])
                lines.append((of, row["network"], row["form"], f"{row['batch']:.0f}", share))
    header = ("ours", "theirs", "form", "batch", "ours ÷ theirs, images/s")
    return markdown(header, lines, left=3) if lines else ""


def _targets(rows: Sequence[Row], as_stated: bool) -> str:
    timed = {(row["form"], row["dtype"], int(row["batch"]), row["network"]): row for row in _ours(rows)}
    found = [(target, timed[place]["ratio"]) for place, target in TARGETS.items() if place in timed]
    for (form, dtype, batch, name), row in timed.items():
        compiled = timed.get((COMPILED, dtype, batch, name))
        if form == AOT and compiled is not None:
            what = f"{name}, {AOT} ÷ {COMPILED}, {dtype}, batch {batch}, images/s"
            found.append((Target(what, 0.95, 1.0), row["images_s"] / compiled["images_s"]))
    return verdicts(found, as_stated) if found else ""


def _weakest(rows: Sequence[Row]) -> str:
    ours = _ours(rows)
    if not ours:
        return "No cell of ours was timed."
    row = min(ours, key=lambda row: row["ratio"])
    return f"weakest cell: {_name(row)}: {number(row['ratio'])} of {row['peer']}"


def _name(row: Row) -> str:
    return f"{row['network']}, {row['form']} {row['dtype']}, batch {row['batch']:.0f}"
