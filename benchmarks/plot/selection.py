"""Which rows a figure shows: those of the newest run of its kind, in each network's faster format."""

from collections.abc import Mapping, Sequence

Rows = Sequence[Mapping[str, str]]


def newest(rows: Rows, sweep: str) -> list[Mapping[str, str]]:
    """Return the inference rows of the newest run of a kind: ``none``, ``resolution`` or ``batch``."""
    kind = [row for row in rows if row["sweep"] == sweep and row["pass"] == "inference"]
    last = max((row["date"] for row in kind), default=None)
    return [row for row in kind if row["date"] == last]


def fastest(rows: Rows, over: str) -> dict[str, dict[int, Mapping[str, str]]]:
    """Return the faster format's row by network and by the integer in column ``over``."""
    found: dict[str, dict[int, Mapping[str, str]]] = {}
    for row in rows:
        line, at = found.setdefault(row["network"], {}), int(row[over])
        if at not in line or float(row["p50_ms"]) < float(line[at]["p50_ms"]):
            line[at] = row
    return found


def subtitle(rows: Rows, *parts: str) -> str:
    """Return where and with what the rows were measured."""
    row = rows[0]
    threads = f"{row['threads']} threads, " if not row["device"].startswith("NVIDIA") else ""
    dtype = row["dtype"] if row["dtype"] == "float32" else f"{row['dtype']} autocast"
    start = f"{row['device']}, {threads}{dtype}, torch {row['torch']}, commit {row['commit']}"
    return ", ".join([start + (" with changes" if row["dirty"] == "1" else ""), *parts])
