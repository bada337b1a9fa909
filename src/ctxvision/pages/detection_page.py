"""A detector's evaluation as one HTML page that needs nothing else: no script, no font, no other file."""

from typing import Any

from markupsafe import Markup

from ctxvision.evaluation.detection import DetectionEvaluation
from ctxvision.plots.figures import curve

from .template import page_template

_ROWS = 100  # classes of a table; of more, the least precise


def render(evaluation: DetectionEvaluation) -> str:
    """Return the page."""
    numbers, pictures = evaluation.numbers, evaluation.pictures.by_place()
    parts = [part for part in ("box", "mask") if part in numbers]
    return page_template("detection.html.j2").render(
        r=numbers,
        parts=parts,
        examples=[(example, *pictures[place]) for place, example in enumerate(numbers["examples"])],
        columns=["class", "objects", *(f"{part} {name}" for part in parts for name in ("AP", "AP50"))],
        classes=_rows(numbers["classes"]),
        drawings=_curves(numbers["curve"]),
        what={"val": "validation images", "train": "training images"}[numbers["split"]],
    )


def _rows(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(classes) <= _ROWS:
        return classes
    return sorted((c for c in classes if c["objects"]), key=lambda c: c["box_ap"])[:_ROWS]


def _curves(rows: list[dict[str, float | None]]) -> list[tuple[str, Markup]]:
    """Draw the curves; the label is a sentence for readers who do not see them."""
    if not rows:
        return []
    drawings = []
    precision = {"box": [r.get("val_box_ap") for r in rows]}
    if any("val_mask_ap" in r for r in rows):
        precision["mask"] = [r.get("val_mask_ap") for r in rows]
    best = max((value for value in precision["box"] if value is not None), default=None)
    if best is not None:
        label = f"Validation AP over {len(rows)} epochs, best of boxes {100 * best:.1f} %"
        drawings.append(("Average precision", curve(precision, label, "ap", percent=True)))
    losses = [r.get("train_loss") for r in rows]
    label = f"Training loss over {len(rows)} epochs"
    drawings.append(("Training loss", curve({"training": losses}, label, "loss")))
    # nothing but numbers and our own words is in them
    return [(title, Markup(svg)) for title, svg in drawings]
