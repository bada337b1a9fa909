"""A report as one HTML page that needs nothing else: no script, no font, no other file."""

from typing import Any

from markupsafe import Markup

from ctxvision.evaluation.report import Report
from ctxvision.plots.figures import curve

from .template import page_template, percent

_MATRIX = 25  # more classes make a table of mistakes by kind instead
_ROWS = 30  # of such tables
_BARS = 10  # classes of a funnel's stage


def render(report: Report) -> str:
    """Return the page."""
    numbers, pictures = report.numbers, report.pictures.by_place()
    return page_template("report.html.j2").render(
        r=numbers,
        pictures=pictures,
        pixelated=report.pixelated,
        curves=_curves(numbers["training"]) if numbers["training"] else [],
        matrix=_matrix(numbers) if len(numbers["class_names"]) <= _MATRIX else None,
        rows=_ROWS,
        classes=_weakest(numbers["classes"]),
        what={"val": "held-out images", "train": "training images", "all": "images"}[numbers["split"]],
        worst=[m for m in numbers["mistakes"] if m["position"] in pictures][:12],
        bars=_bars,
        largest=_largest,
        wbr=Markup("<wbr>"),
    )


def _curves(training: dict[str, Any]) -> list[tuple[str, Markup]]:
    """Draw the curves; the label is a sentence for readers who do not see them."""
    rows = training["curve"]
    top1, losses = [r["val_top1"] for r in rows], [r["val_loss"] for r in rows]
    accuracy = f"Validation accuracy over {len(rows)} epochs"
    if training["best_epoch"]:
        accuracy += f", best {percent(training['best_top1'])} in epoch {training['best_epoch']}"
    loss = f"Training and validation loss over {len(rows)} epochs"
    if losses[0] is not None and losses[-1] is not None:
        loss += f"; validation from {losses[0]:.3f} to {losses[-1]:.3f}"
    drawings = [
        ("Validation accuracy", curve({"validation": top1}, accuracy, "accuracy", percent=True)),
        ("Loss", curve({"validation": losses, "training": [r["train_loss"] for r in rows]}, loss, "loss")),
    ]
    stages = sorted({stage for r in rows for stage in r["recalls"]})
    if stages:
        recalls = {f"stage {stage}": [r["recalls"].get(stage) for r in rows] for stage in stages}
        recall = f"Share of true classes in the class set of each stage over {len(rows)} epochs"
        drawings.append(("Recall of the class sets", curve(recalls, recall, "recall", percent=True)))
    temperatures = [r["temperature"] for r in rows]
    if any(t is not None for t in temperatures):
        label = f"Temperature over {len(rows)} epochs"
        drawings.append(("Temperature τ", curve({"τ": temperatures}, label, "temperature")))
    # nothing but numbers and our own words is in them
    return [(title, Markup(svg)) for title, svg in drawings]


def _matrix(numbers: dict[str, Any]) -> list[list[int]]:
    place = {name: index for index, name in enumerate(numbers["class_names"])}
    cells = [[0] * len(place) for _ in place]
    for index, row in enumerate(numbers["classes"]):
        cells[index][index] = row["right"]
    for pair in numbers["confused"]:
        cells[place[pair["truth"]]][place[pair["prediction"]]] = pair["images"]
    return cells


def _weakest(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return all classes in their order, or of many the least accurate."""
    if len(classes) <= _ROWS:
        return classes
    return sorted((c for c in classes if c["images"]), key=lambda c: c["top1"])[:_ROWS]


def _bars(stage: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the best classes of a stage and, wherever it stands, the true one, with their ranks."""
    ranked = [entry | {"rank": rank} for rank, entry in enumerate(stage["classes"], 1)]
    return [entry for entry in ranked if entry["rank"] <= _BARS or entry["true"]]


def _largest(funnel: dict[str, Any]) -> float:
    return max(abs(entry["score"]) for stage in funnel["stages"] for entry in stage["classes"]) or 1.0
