"""A segmentation report as one HTML page that needs nothing else: no script, no font, no other file."""

from typing import Any

from markupsafe import Markup

from ctxvision.evaluation.segmentation import SegmentationReport
from ctxvision.plots.figures import curve

from .template import page_template, percent


def render(report: SegmentationReport) -> str:
    """Return the page."""
    numbers = report.numbers
    return page_template("segmentation.html.j2").render(
        r=numbers,
        pictures=report.pictures.by_place(),
        drawings=_curves(numbers["training"]) if numbers["training"] else [],
        what={"val": "held-out images", "train": "training images", "all": "images"}[numbers["split"]],
        pixels=sum(row["pixels"] for row in numbers["classes"]),
    )


def _curves(training: dict[str, Any]) -> list[tuple[str, Markup]]:
    """Draw the curves; the label is a sentence for readers who do not see them."""
    rows = training["curve"]
    quality = f"Mean IoU on validation images over {len(rows)} epochs"
    if training["best_epoch"]:
        quality += f", best {percent(training['best_miou'])} in epoch {training['best_epoch']}"
    losses = {"validation": [r["val_loss"] for r in rows], "training": [r["train_loss"] for r in rows]}
    loss = f"Training and validation loss over {len(rows)} epochs"
    drawings = [
        ("Mean IoU", curve({"validation": [r["val_miou"] for r in rows]}, quality, "miou", percent=True)),
        ("Loss", curve(losses, loss, "loss")),
    ]
    # nothing but numbers and our own words is in them
    return [(title, Markup(svg)) for title, svg in drawings]
