"""What a run on a GPU found, most important first."""

from collections.abc import Sequence
from typing import Any

from benchmarks.table import markdown, number

Row = dict[str, Any]


def report(found: Sequence[Row], failures: Sequence[tuple[str, str, str]]) -> str:
    """Return tables of what failed, what was compared, operators, networks and tiles."""
    parts = [_failures(failures), _correctness(_of(found, "correctness"))]
    parts += [_operators(_of(found, "operators")), _networks(_of(found, "networks")), _tiles(_of(found, "tiles"))]
    return "\n\n".join(part for part in parts if part)


def _of(found: Sequence[Row], stage: str) -> list[Row]:
    return [row for row in found if row["stage"] == stage]


def _failures(failures: Sequence[tuple[str, str, str]]) -> str:
    if not failures:
        return "Nothing failed."
    lines = [f"- {stage}: {item}: {(error.splitlines() or [''])[0][:200]}" for stage, item, error in failures]
    return f"{len(failures)} failed:\n" + "\n".join(lines)


def _correctness(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    body = []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        its = [row for row in rows if row["dtype"] == dtype]
        body.append(
            (dtype, len({row["what"] for row in its}), sum(row["outcome"] == "equal" for row in its), len(its))
        )
    return "Triton against the oracle\n" + markdown(("dtype", "problems", "equal", "of layouts"), body)


def _operators(rows: Sequence[Row]) -> str:
    """One line per operator, dtype and pass: ours in its faster layout, every peer's time over it."""
    body = []
    for what, dtype, which in dict.fromkeys((row["what"], row["dtype"], row["pass"]) for row in rows):
        its = [row for row in rows if (row["what"], row["dtype"], row["pass"]) == (what, dtype, which)]
        ours = min((row for row in its if row["candidate"] == "ours"), key=lambda row: row["p50_ms"])
        others = {
            name: min(row["ratio"] for row in its if row["candidate"] == name)
            for name in dict.fromkeys(row["candidate"] for row in its)
            if name != "ours"
        }
        peers = ", ".join(f"{name} {number(ratio)}" for name, ratio in others.items())
        body.append(
            (what, dtype, which, ours["layout"], number(ours["p50_ms"]), f"{ours['copy_share']:.0%}", peers)
        )
    header = ("operator", "dtype", "pass", "layout", "ours ms", "of copy", "peers' time ÷ ours")
    return markdown(header, body, left=4) if body else ""


def _networks(rows: Sequence[Row]) -> str:
    """One line per network, pass and way to run: images per second, over the peer's, peak memory."""
    body = []
    for what, which, how in dict.fromkeys((row["what"], row["pass"], row["candidate"]) for row in rows):
        its = [row for row in rows if (row["what"], row["pass"], row["candidate"]) == (what, which, how)]
        row = min(its, key=lambda row: row["p50_ms"])
        memory = number(row["peak_mib"]) if row["peak_mib"] != "" else ""
        body.append(
            (what, which, how, row["layout"], number(row["images_s"]), row["peer"], number(row["ratio"]), memory)
        )
    if not body:
        return ""
    weakest = min((row for row in body if not row[0].startswith(f"{row[5]} ")), key=lambda row: float(row[6]))
    header = ("network", "pass", "run", "layout", "images/s", "peer", "÷ peer", "peak MiB")
    return markdown(header, body, left=4) + f"\nweakest: {weakest[0]}, {weakest[1]}, {weakest[2]}: {weakest[6]}"


def _tiles(rows: Sequence[Row]) -> str:
    best = [row for row in rows if "fastest" in row["outcome"]]
    body = [(row["what"], row["pass"], row["candidate"], number(row["ratio"]), row["outcome"]) for row in best]
    return markdown(("operator", "pass", "fastest tile", "÷ in use", ""), body, left=3) if body else ""
