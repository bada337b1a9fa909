"""The page about the scores of a detector."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from PIL import Image

from ctxvision.evaluation.detection import DetectionScores
from ctxvision.plots.boxes import draw_boxes
from ctxvision.plots.pixels import data_uri, to_picture

from .template import data_words, drawn, page_template

_ROWS = 100  # classes of a table; of more, the least precise
_SMALL = 128  # pixels of an image that is shown without any loss


def render(scores: DetectionScores) -> str:
    """Return the HTML page about the scores of a detector."""
    numbers = scores.numbers
    parts = [part for part in ("box", "mask") if part in numbers]
    pictures = [
        [_picture(to_picture(one.pixels), objects) for objects in (one.truth, one.found)]
        for one in scores.examples
    ]
    return page_template("detection.html.j2").render(
        r=numbers,
        parts=parts,
        columns=["class", "objects", *(f"{part} {name}" for part in parts for name in ("AP", "AP50"))],
        examples=[(entry, *pair) for entry, pair in zip(numbers["examples"], pictures, strict=True)],
        classes=_rows(numbers["classes"]),
        drawings=_curves(numbers["curve"]),
        what={"val": "validation images"}.get(numbers["split"]) or data_words(numbers["split"], "images"),
    )


def _picture(image: Image.Image, objects: Sequence[dict[str, Any]]) -> str:
    masks = [one["segmentation"] for one in objects if one.get("segmentation")]
    drawn = draw_boxes(
        image,
        [one["bbox"] for one in objects],
        [one["label"] for one in objects],
        [one["class"] for one in objects],
        scores=[one["score"] for one in objects] if all("score" in one for one in objects) else None,
        masks=masks if len(masks) == len(objects) else None,
    )
    return data_uri(drawn, lossless=max(image.size) <= _SMALL)


def _rows(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(classes) <= _ROWS:
        return classes
    return sorted((c for c in classes if c["objects"]), key=lambda c: float(c["box_ap"]))[:_ROWS]


def _curves(rows: list[dict[str, float | None]]) -> list[tuple[str, Markup]]:
    if not rows:
        return []
    drawings: list[tuple[str, Markup]] = []
    precision = {"box": [r.get("val_box_ap") for r in rows]}
    if any("val_mask_ap" in r for r in rows):
        precision["mask"] = [r.get("val_mask_ap") for r in rows]
    best = max((value for value in precision["box"] if value is not None), default=None)
    if best is not None:
        label = f"Validation AP over {len(rows)} epochs, best of boxes {100 * best:.1f} %"
        drawings.append(drawn("Average precision", precision, label, "ap", percent=True))
    label = f"Training loss over {len(rows)} epochs"
    losses = {"training": [r.get("train_loss") for r in rows]}
    return [*drawings, drawn("Training loss", losses, label, "loss")]
