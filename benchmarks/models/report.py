"""What the networks' rows say: tables, and the targets."""

from collections.abc import Sequence
from typing import Any

from benchmarks.models.networks import PEERS
from benchmarks.settings import Settings
from benchmarks.table import markdown, number
from benchmarks.targets import Target, verdicts

Rows = Sequence[dict[str, Any]]
RATIOS = {
    # pass, network: at least, stretch
    ("inference", "rednet50"): (1.05, 1.3),
    ("inference", "cotnet50"): (0.85, 1.0),
    ("inference", "se_cotnetd50"): (0.95, 1.1),
    ("inference", "contextual_convnext_tiny"): (0.93, 1.0),
    ("training step", "rednet50"): (0.9, 1.1),
    ("training step", "cotnet50"): (0.75, 0.9),
    ("training step", "se_cotnetd50"): (0.85, 1.0),
    ("training step", "contextual_convnext_tiny"): (0.85, 0.95),
}


def best(rows: Rows, network: str, which: str) -> dict[str, Any]:
    """Return the row of a network's faster memory format."""
    return min((r for r in rows if (r["network"], r["pass"]) == (network, which)), key=lambda row: row["p50_ms"])


def names(rows: Rows) -> list[str]:
    """Return the networks in their order."""
    return list(dict.fromkeys(row["network"] for row in rows))


def network_table(rows: Rows) -> str:
    """Return one line per network and pass, in the network's faster format."""
    header = ("network", "layout", "px", "GMACs", "p10 ms", "p50 ms", "p90 ms", "n", "images/s", "GMAC/s",
              "peak MiB")  # fmt: skip
    tables = []
    for which in dict.fromkeys(row["pass"] for row in rows):
        shown = [best(rows, name, which) for name in names(rows)]
        body = [
            (
                row["network"], row["layout"], row["resolution"], number(row["gmacs"]),
                *(number(row[f"p{n}_ms"]) for n in (10, 50, 90)), row["repeats"], number(row["images_s"]),
                number(row["gmac_s"]), number(row["peak_mib"]) if row["peak_mib"] != "" else "",
            )
            for row in shown
        ]  # fmt: skip
        tables.append(f"{which}, batch {rows[0]['batch']}\n{markdown(header, body, left=2)}")
    return "\n\n".join(tables)


def sweep_table(rows: Rows, over: str) -> str:
    """Return images/s, one line per network and one column per value swept over."""
    values = list(dict.fromkeys(row[over] for row in rows))
    body = [
        (
            name,
            *(
                number(best([r for r in rows if r[over] == value], name, "inference")["images_s"])
                for value in values
            ),
        )
        for name in names(rows)
    ]
    return f"inference, images/s over {over}\n" + markdown(("network", *values), body)


def target_table(rows: Rows, settings: Settings) -> str:
    """Return the targets that these rows decide: images/s ours ÷ peer, peak memory ours ÷ peer."""
    present = names(rows)
    found = []
    pairs = {name: peer for name, peer in PEERS.items() if name in present and peer in present}
    for (which, name), bounds in RATIOS.items():
        if name in pairs:
            ratio = best(rows, name, which)["images_s"] / best(rows, pairs[name], which)["images_s"]
            found.append((Target(f"{name} ÷ {pairs[name]}, {which}, images/s", *bounds), ratio))
    for name, peer in pairs.items():
        ours, other = (best(rows, network, "training step")["peak_mib"] for network in (name, peer))
        if ours != "" and other != "":
            found.append((Target(f"{name} ÷ {peer}, training step, peak memory", 1.3, 1.1, True), ours / other))
    return verdicts(found, settings.is_the_targets())
