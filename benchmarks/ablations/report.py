"""The tables of the ablations: accuracies, paired differences, and what follows from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks import rows
from benchmarks.ablations.networks import NETWORKS, TOLERANCE
from benchmarks.ablations.published import COMPARISONS, PUBLISHED, published_difference
from benchmarks.ablations.run import fingerprint
from benchmarks.ablations.settings import Size
from benchmarks.ablations.statistics import Difference, paired, summarise
from benchmarks.table import markdown

Rows = Mapping[str, Sequence[Mapping[str, str]]]
"""By network, in the order of the comparison; only networks with rows."""


def accuracies(path: Path, names: Sequence[str], size: Size, device: torch.device) -> Rows:
    """Return the rows that were measured with the settings of now.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no such rows.
    """
    table = rows.read(path)
    found = {}
    for name in names:
        mark = fingerprint(name, size, device)
        own = [row for row in table if row["fingerprint"] == mark]
        if own:
            found[name] = own
    if not found:
        raise ValueError(
            f"{path.name} holds no rows of size {size.name} on {device.type} with the settings of now"
        )
    return found


def by_seed(own: Sequence[Mapping[str, str]], column: str = "accuracy") -> dict[int, float]:
    """Return a column's values by seed."""
    return {int(row["seed"]): float(row[column]) for row in own}


def report(found: Rows) -> str:
    """Return all tables."""
    return "\n\n".join([accuracy_table(found), difference_table(found)])


def accuracy_table(found: Rows) -> str:
    """Return one line per network: cost, accuracy here, accuracy in the paper."""
    header = ("network", "parameters", "MMACs", "runs", "test, %", "deviation", "training, %", "kept, %", "s",
              "paper, %")  # fmt: skip
    body = []
    for name, own in found.items():
        tested, trained, kept, seconds = (
            summarise(by_seed(own, column)) for column in ("accuracy", "train_accuracy", "kept", "seconds")
        )
        body.append(
            (
                name, own[0]["params"], f"{int(own[0]['macs']) / 1e6:.2f}", tested.runs, f"{tested.mean:.1f}",
                f"{tested.deviation:.1f}", f"{trained.mean:.1f}", f"{kept.mean:.0f}", f"{seconds.mean:.0f}",
                f"{PUBLISHED[name].top1:.2f}" if name in PUBLISHED else "",
            )
        )  # fmt: skip
    families = [[line for line in body if NETWORKS[line[0]].family == kind] for kind in ("contextual", "residual")]
    return "\n\n".join(markdown(header, lines) for lines in families if lines)


def difference_table(found: Rows) -> str:
    """Return one line per comparison whose networks were trained with common seeds."""
    header = ("comparison", "seeds", "difference, points", "95 % interval", "p", "paper, points", "here")
    body = []
    for first, second in COMPARISONS:
        if first not in found or second not in found:
            continue
        difference = paired(by_seed(found[first]), by_seed(found[second]))
        if difference is None:
            continue
        expected = published_difference(first, second)
        body.append(
            (
                f"{first} − {second}", difference.runs, f"{difference.mean:+.1f}",
                f"{difference.low:+.1f} to {difference.high:+.1f}", f"{difference.p:.3f}",
                "" if expected is None else f"{expected:+.2f}", verdict(difference, expected),
            )
        )  # fmt: skip
    note = (
        f"Parameters within {100 * TOLERANCE:g} % of the budget. Paired t intervals over the seeds, each alone: "
        f"one in twenty would miss 0 by chance; for all {len(body)} together Bonferroni's bound for p is "
        f"{0.05 / max(len(body), 1):.4f}."
    )
    return f"{markdown(header, body)}\n\n{note}"


def verdict(difference: Difference, expected: float | None) -> str:
    """Return in a word what the interval says about the sign that the paper found."""
    if not (difference.low > 0 or difference.high < 0):
        return "open"
    if expected is None:
        return "better" if difference.mean > 0 else "worse"
    return "as the paper" if difference.mean * expected > 0 else "opposite"
