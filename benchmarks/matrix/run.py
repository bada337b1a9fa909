"""Do the groups in order; write the rows of each as it is done, so that a run that is cut off can go on."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, rows
from benchmarks.gate import RedGate
from benchmarks.matrix.forms import CPU, Forms, Ready
from benchmarks.matrix.plan import Group, Plan
from benchmarks.matrix.remote import CellError
from benchmarks.settings import Settings
from benchmarks.table import number
from ctxvision.timing.clock import Candidate, percentiles, take_turns

COLUMNS = (
    *machine.COLUMNS,
    "form", "network", "peer", "batch", "resolution", "detail", "difference", "p10_ms", "p50_ms", "p90_ms",
    "repeats", "images_s", "ratio", "ratio_q1", "ratio_q3", "outcome",
)  # fmt: skip
TIMED = "timed"
Row = dict[str, Any]
# rows that agree in these are of one run, which may have been cut off and taken up again
_SAME_RUN = ("commit", "device", "threads", "python", "torch", "timm", "ctxvision", "resolution")


def run(plan: Plan, out: Path) -> list[Row]:
    """Measure the groups that ``out`` does not have yet; return the rows of all.

    Args:
        plan: What to measure.
        out: CSV file to append to.

    Raises:
        SchemaError: If ``out`` holds other columns.
    """
    settings = Settings(CPU, torch.float32, plan.threads, 1, plan.repeats, plan.seconds, plan.size)
    settings.apply()
    rows.check(out, COLUMNS)
    shared = machine.describe(settings) | {"resolution": plan.size}
    have = [row for row in rows.read(out) if _taken_up(row, shared)] if out.exists() else []
    begin = time.monotonic()
    groups = list(plan.groups())
    found: list[Row] = []
    forms, before = Forms(plan), None
    try:
        for number, group in enumerate(groups, 1):
            its = _rows_of(group, have)
            if its:
                print(f"{number}/{len(groups)} {group}: measured before", flush=True)
                found += its
                continue
            if before not in (None, group[:2] + group[3:4]):
                forms.forget_sessions()
            before = group[:2] + group[3:4]
            its = [shared | row for row in _measure(group, forms, plan)]
            rows.append(out, COLUMNS, its)
            found += its
            took = f"{time.monotonic() - begin:.0f} s gone"
            print(f"{number}/{len(groups)} {group.form} {group.dtype} batch {group.batch}: {_line(its)}; {took}",
                  flush=True)  # fmt: skip
    finally:
        forms.end()
    return found


def _taken_up(row: Mapping[str, str], shared: Mapping[str, object]) -> bool:
    """Whether a row was measured with this very code on this machine; a tree with changes is never the same."""
    clean = not shared["dirty"] and row["dirty"] == "0"
    return clean and all(row[name] == str(shared[name]) for name in _SAME_RUN)


def _rows_of(group: Group, have: Iterable[Row]) -> list[Row]:
    """Return the rows of a group, or none unless those of all its networks are there."""
    its = {
        row["network"]: row
        for row in have
        if (row["form"], row["dtype"], int(row["batch"]), row["peer"])
        == (group.form, group.dtype, group.batch, group.peer)
    }
    return [its[name] for name in group.networks] if set(group.networks) <= set(its) else []


def _measure(group: Group, forms: Forms, plan: Plan) -> list[Row]:
    """Open the networks of a group, compare them, let those that are right take turns."""
    ready: dict[str, Ready] = {}
    found: dict[str, Row] = {}
    try:
        for name in group.networks:
            found[name] = dict.fromkeys(COLUMNS[len(machine.COLUMNS) :], "") | {
                "dtype": group.dtype, "form": group.form, "network": name, "peer": group.peer,
                "batch": group.batch, "resolution": plan.size,
            }  # fmt: skip
            try:
                ready[name] = its = forms.ready(name, group)
                found[name] |= {"detail": its.detail, "difference": its.difference, "outcome": TIMED}
            except (RedGate, CellError) as error:
                kind = "refused" if isinstance(error, RedGate) else "cannot run"
                found[name]["outcome"] = f"{kind}: {' '.join(str(error).split())[:300]}"
                print(f"  {name}, {group.form} {group.dtype}, batch {group.batch}: {found[name]['outcome']}",
                      flush=True)  # fmt: skip
        if group.peer in ready:  # without it there is nothing to compare with
            candidates = {name: Candidate(its.call) for name, its in ready.items()}
            samples = take_turns(candidates, CPU, plan.repeats, plan.seconds)
            for name, taken in samples.items():
                found[name] |= _speeds(taken, samples[group.peer], group.batch)
        else:
            for row in found.values():
                row["outcome"] = row["outcome"].replace(TIMED, f"not timed: {group.peer} cannot be")
    finally:
        forms.close()
    return list(found.values())


def _speeds(taken: list[float], peer: list[float], batch: int) -> Row:
    p10, p50, p90 = percentiles(taken, (10, 50, 90))
    per_round = [theirs / ours for ours, theirs in zip(taken, peer, strict=True)]
    q1, q3 = (value / 1e3 for value in percentiles(per_round, (25, 75)))
    return {
        "p10_ms": p10, "p50_ms": p50, "p90_ms": p90, "repeats": len(taken), "images_s": batch / p50 * 1e3,
        "ratio": percentiles(peer, (50,))[0] / p50, "ratio_q1": q1, "ratio_q3": q3,
    }  # fmt: skip


def _line(its: list[Row]) -> str:
    return ", ".join(
        f"{row['network']} {number(row['images_s'])}/s ({number(row['ratio'])})"
        for row in its
        if row["outcome"] == TIMED
    )
