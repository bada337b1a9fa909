"""The tables of the ablations: accuracies, what the prior is good for, paired differences."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.ablations.networks import NETWORKS, TOLERANCE
from benchmarks.ablations.published import COMPARISONS, PUBLISHED, published_difference
from benchmarks.ablations.run import Row, alpha_of, own_rows, written
from benchmarks.ablations.settings import TRIAL_SEEDS, Size
from benchmarks.ablations.statistics import Difference, paired, summarise
from benchmarks.table import markdown

Rows = Mapping[str, Sequence[Row]]
"""By network, in the order of the comparison; only networks with rows."""
CONTROLS = {"zero_prior": "prior zero", "mean_prior": "mean prior", "other_prior": "another's prior"}


def accuracies(
    path: Path, names: Sequence[str], size: Size, device: torch.device, alpha: float | None = None
) -> Rows:
    """Return the rows that were measured with the settings of now and ``alpha``, or the chosen α, but no trials.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no such rows.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    found = {}
    for name, own in own_rows(path, names, size, device).items():
        reported = written(alpha_of(name, own, alpha))
        kept = [row for row in own if row["alpha"] == reported and int(row["seed"]) not in TRIAL_SEEDS]
        if kept:
            found[name] = kept
    if not found:
        raise ValueError(
            f"{path.name} holds no rows of size {size.name} on {device.type} with the settings of now"
        )
    return found


def by_seed(own: Sequence[Row], column: str = "accuracy") -> dict[int, float]:
    """Return a column's values by seed."""
    return {int(row["seed"]): float(row[column]) for row in own}


def by_stage(own: Sequence[Row], column: str) -> str:
    """Return the means over the seeds of a column that holds a number for each stage."""
    values = [[float(value) for value in row[column].split()] for row in own]
    return " / ".join(f"{sum(stage) / len(stage):.0f}" for stage in zip(*values, strict=True))


def curve(own: Sequence[Row]) -> tuple[list[int], list[float]]:
    """Return the epochs, and the mean over the seeds of the accuracy on the validation drawings."""
    points = [[point.split(":") for point in row["curve"].split()] for row in own]
    epochs = [int(epoch) for epoch, _ in points[0]]
    return epochs, [sum(float(run[n][1]) for run in points) / len(points) for n in range(len(epochs))]


def report(found: Rows) -> str:
    """Return all tables."""
    return "\n\n".join(
        part for part in (accuracy_table(found), prior_table(found), difference_table(found)) if part
    )


def accuracy_table(found: Rows) -> str:
    """Return one line per network: cost, accuracy here, accuracy in the paper."""
    header = ("network", "runs", "test, %", "deviation", "validation, %", "train, %", "paper, %", "α",
              "parameters", "MMACs", "s")  # fmt: skip
    body = []
    for name, own in found.items():
        val, tested, trained, seconds = (
            summarise(by_seed(own, column)) for column in ("val", "accuracy", "train_accuracy", "seconds")
        )
        body.append(
            (
                f"`{name}`", tested.runs, f"{tested.mean:.1f}", _known(tested.deviation, ".1f"), f"{val.mean:.1f}",
                f"{trained.mean:.1f}", f"{PUBLISHED[name].top1:.2f}" if name in PUBLISHED else "", own[0]["alpha"],
                own[0]["params"], f"{int(own[0]['macs']) / 1e6:.2f}", f"{seconds.mean:.0f}",
            )
        )  # fmt: skip
    families = [
        [line for line, name in zip(body, found, strict=True) if NETWORKS[name].family == kind]
        for kind in ("contextual", "residual")
    ]
    return "\n\n".join(markdown(header, lines) for lines in families if lines)


def prior_table(found: Rows) -> str:
    """Return one line per network with a prior: what the trained network loses without it, and what it holds."""
    header = ("network", "test, %", *(f"{label}, points" for label in CONTROLS.values()), "image-dependent, %",
              "right class among the merged, %")  # fmt: skip
    body = []
    for name, own in found.items():
        if not own[0]["kept"]:
            continue
        tested = by_seed(own)
        losses = [summarise({s: v - tested[s] for s, v in by_seed(own, control).items()}) for control in CONTROLS]
        body.append(
            (
                f"`{name}`", f"{summarise(tested).mean:.1f}", *(f"{loss.mean:+.1f}" for loss in losses),
                by_stage(own, "prior_share"), by_stage(own, "kept"),
            )
        )  # fmt: skip
    return markdown(header, body) if body else ""


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
                f"`{first}` − `{second}`", difference.runs, f"{difference.mean:+.1f}",
                " to ".join(filter(None, (_known(end, "+.1f") for end in (difference.low, difference.high)))),
                _known(difference.p, ".3f"),
                "" if expected is None else f"{expected:+.2f}", verdict(difference, expected),
            )
        )  # fmt: skip
    note = (
        f"Parameters within {100 * TOLERANCE:g} % of the budget. Paired t intervals over the seeds, each alone: "
        f"one in twenty would miss 0 by chance; for all {len(body)} together Bonferroni's bound for p is "
        f"{0.05 / max(len(body), 1):.4f}."
    )
    return f"{markdown(header, body)}\n\n{note}" if body else ""


def _known(value: float, form: str) -> str:
    """Return a number as text, nothing for NaN: one run has no deviation."""
    return "" if math.isnan(value) else format(value, form)


def verdict(difference: Difference, expected: float | None) -> str:
    """Return in a word what the interval says about the sign that the paper found."""
    if not (difference.low > 0 or difference.high < 0):
        return "open"
    if expected is None:
        return "better" if difference.mean > 0 else "worse"
    return "as the paper" if difference.mean * expected > 0 else "opposite"
