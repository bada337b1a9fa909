"""What the operators' rows say: tables per case, and the targets."""

from collections.abc import Sequence
from typing import Any

from benchmarks.settings import Settings
from benchmarks.table import markdown, number
from benchmarks.targets import Target, verdicts

Rows = Sequence[dict[str, Any]]
LOCAL, BENT = "local_aggregation", "contextual_conv2d"
CPU_RATIOS = {
    # op, shape, pass, layout, peer: target
    (LOCAL, "64x56x56 k7 G4 blocked", "forward", "channels_last", "unfold"): (80, 130),
    (LOCAL, "64x56x56 k7 G4 blocked", "forward", "nchw", "unfold"): (30, 60),
    (LOCAL, "64x56x56 k7 G4 blocked", "forward+backward", "channels_last", "unfold"): (25, 60),
    (BENT, "192x28x28 k7 depthwise", "forward", "channels_last", "deform_conv2d"): (80, 120),
    (BENT, "192x28x28 k7 depthwise", "forward+backward", "channels_last", "deform_conv2d"): (30, 60),
}  # fmt: skip


def best(rows: Rows, candidate: str) -> dict[str, Any] | None:
    """Return the row of a candidate's faster memory format."""
    return min((row for row in rows if row["candidate"] == candidate), key=lambda row: row["p50_ms"], default=None)


def case_table(rows: Rows) -> str:
    """Return one case and pass: ours in both formats, every other candidate in its better one."""
    first = rows[0]
    shown = [row for row in rows if row["candidate"] == "ours"]
    names = dict.fromkeys(row["candidate"] for row in rows if row["candidate"] != "ours")
    shown += [row for name in names if (row := best(rows, name)) is not None]
    fastest = best(rows, "ours")
    assert fastest is not None
    header = ("candidate", "layout", "p10 ms", "p50 ms", "p90 ms", "n", "÷ ours", "GMAC/s", "of matrix", "GB/s",
              "of copy")  # fmt: skip
    body = [
        (
            row["candidate"], row["layout"], *(number(row[f"p{n}_ms"]) for n in (10, 50, 90)), row["repeats"],
            number(row["p50_ms"] / fastest["p50_ms"]), number(row["gmac_s"]), f"{row['matrix_share']:.1%}",
            number(row["gb_s"]), f"{row['copy_share']:.1%}",
        )
        for row in shown
    ]  # fmt: skip
    return (
        f"{first['op']} {first['shape']}, batch {first['batch']}, {first['pass']} "
        f"(copy {number(first['copy_gb_s'])} GB/s, in cache {number(first['cached_copy_gb_s'])} GB/s, "
        f"matrix {number(first['matrix_gmac_s'])} GMAC/s)\n" + markdown(header, body, left=2)
    )


def target_table(rows: Rows, settings: Settings) -> str:
    """Return the targets that these rows decide."""
    pick = _cuda_targets if settings.device.type == "cuda" else _cpu_targets
    return verdicts(pick(rows), settings.is_the_targets())


def _group(rows: Rows, op: str, shape: str, which: str) -> Rows:
    return [row for row in rows if (row["op"], row["shape"], row["pass"]) == (op, shape, which)]


def _cpu_targets(rows: Rows) -> list[tuple[Target, float]]:
    found = []
    for (op, shape, which, layout, peer), bounds in CPU_RATIOS.items():
        group = _group(rows, op, shape, which)
        ours = best([row for row in group if row["layout"] == layout], "ours")
        other = best(group, peer)
        if ours is not None and other is not None:
            target = Target(f"{op} {shape}, {which}, {layout}: {peer} ÷ ours", *bounds)
            found.append((target, other["p50_ms"] / ours["p50_ms"]))
    cached = best(_group(rows, LOCAL, "512x7x7 k7 G32 blocked", "forward"), "ours")
    if cached is not None:
        target = Target("local_aggregation 512x7x7 k7 G32 blocked, forward: share of the matrix rate", 0.4, 0.6)
        found.append((target, cached["matrix_share"]))
    return found


def _cuda_targets(rows: Rows) -> list[tuple[Target, float]]:
    found = []
    for row in rows:
        if (row["candidate"], row["pass"], row["layout"]) != ("ours", "forward", "channels_last"):
            continue
        what = f"{row['op']} {row['shape']}, forward"
        if row["op"] == LOCAL:
            found.append((Target(f"{what}: share of the copy bandwidth", 0.6, 0.6), row["copy_share"]))
        elif "depthwise" in row["shape"]:
            plain = best(_group(rows, row["op"], row["shape"], "forward"), "plain convolution")
            assert plain is not None
            found.append(
                (Target(f"{what}: ours ÷ plain convolution", 2, 2, True), row["p50_ms"] / plain["p50_ms"])
            )
    return found
