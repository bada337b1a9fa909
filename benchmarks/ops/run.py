"""Gate, time, print and record the operators."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import machine, rows
from benchmarks.limits import Limits, Yardsticks
from benchmarks.ops.cases import PASSES, Case, count_bytes, count_macs, lay_out, one_pass
from benchmarks.ops.check import check_case
from benchmarks.ops.report import case_table, target_table
from benchmarks.settings import Settings
from ctxvision.nn.layouts import LAYOUTS, Layout
from ctxvision.timing.clock import Candidate, Quantiles, quantiles, take_turns

COLUMNS = (
    *machine.COLUMNS,
    "op", "shape", "batch", "layout", "pass", "candidate", "p10_ms", "p50_ms", "p90_ms", "repeats",
    "gmac_s", "matrix_share", "gb_s", "copy_share", "copy_gb_s", "cached_copy_gb_s", "matrix_gmac_s",
)  # fmt: skip
FLOOR = "plain convolution"
Row = dict[str, object]


def run(cases: Sequence[Case], settings: Settings, compiled: str, out: Path, shrink: int = 1) -> None:
    """Benchmark the operators and append one row per case, pass, candidate and layout to ``out``.

    Args:
        cases: Problems.
        settings: How to measure.
        compiled: For which cases to compile the shifted sum: ``none``, ``named`` (by a target) or ``all``.
        out: CSV file.
        shrink: Divide the sizes of the yardsticks, for tests.

    Raises:
        RedGate: If something computes wrong numbers; no time has been printed then and no row appended.
        SchemaError: If ``out`` holds other columns.
    """
    settings.apply()
    rows.check(out, COLUMNS)
    for number, case in enumerate(cases, 1):
        print(f"gate {number}/{len(cases)}: {case.op} {case.shape}", flush=True)
        check_case(case, settings, _compiles(case, compiled))
        torch.compiler.reset()  # graphs of one case do not weigh on the next; those on disk stay
    print("gate green: ours and every peer equal the oracle, forward and gradients, both layouts\n", flush=True)
    shared = machine.describe(settings)
    yardsticks = Yardsticks(settings, shrink)
    found: list[Row] = []
    for case in cases:
        for which in PASSES:
            measured = _measure(case, which, settings, yardsticks, _compiles(case, compiled))
            print(case_table(measured), "\n", flush=True)
            found += measured
        torch.compiler.reset()
    print(target_table(found, settings))
    rows.append(out, COLUMNS, [shared | row for row in found])
    print(f"\n{len(found)} rows appended to {out}")


def _measure(case: Case, which: str, settings: Settings, yardsticks: Yardsticks, compile_it: bool) -> list[Row]:
    """Return the rows of a case and pass, without the columns that all rows share."""
    calls, macs, moved = {}, {}, {}
    for name, layout, function, tensors in _candidates(case, settings, compile_it):
        calls[name, layout] = one_pass(function, tensors, which)
        # the plain convolution does less; all others do the same work, however they do it
        work = name if name == FLOOR else "ours"
        if work == name and layout == "channels_last":
            macs[work] = count_macs(function, tensors, which)
            moved[work] = count_bytes(tensors[:2] if name == FLOOR else tensors, which)
    candidates: dict[str, Candidate] = dict(yardsticks.candidates)
    candidates |= {f"{name}/{layout}": Candidate(call) for (name, layout), call in calls.items()}
    samples = take_turns(candidates, settings.device, settings.repeats, settings.seconds)
    times = {name: quantiles(taken) for name, taken in samples.items()}
    limits = yardsticks.limits(times)
    found: list[Row] = []
    for name, layout in calls:
        work = name if name == FLOOR else "ours"
        place = {"op": case.op, "shape": case.shape, "batch": settings.batch, "layout": layout, "pass": which}
        speeds = _speeds(times[f"{name}/{layout}"], macs[work], moved[work], limits)
        found.append({**place, "candidate": name, **speeds})
    return found


def _candidates(
    case: Case, settings: Settings, compile_it: bool
) -> Iterator[tuple[str, Layout, Callable[..., Tensor], tuple[Tensor, ...]]]:
    functions: Mapping[str, Callable[..., Tensor]] = {"ours": case.ours, **case.peers(compile_it)}
    floor = case.floor()
    if floor is not None:
        functions = {**functions, FLOOR: floor}
    base = case.tensors(settings.batch)
    for layout in LAYOUTS:
        tensors = tuple(lay_out(tensor, layout, settings.device, settings.dtype) for tensor in base)
        for name, function in functions.items():
            yield name, layout, function, tensors


def _compiles(case: Case, compiled: str) -> bool:
    return compiled == "all" or (compiled == "named" and case.named)


def _speeds(time: Quantiles, macs: int, moved: int, limits: Limits) -> Row:
    gmac_s, gb_s = macs / time.p50 / 1e6, moved / time.p50 / 1e6
    return {
        "p10_ms": time.p10, "p50_ms": time.p50, "p90_ms": time.p90, "repeats": time.repeats,
        "gmac_s": gmac_s, "matrix_share": gmac_s / limits.matrix,
        "gb_s": gb_s, "copy_share": gb_s / limits.copy,
        "copy_gb_s": limits.copy, "cached_copy_gb_s": limits.cached, "matrix_gmac_s": limits.matrix,
    }  # fmt: skip
