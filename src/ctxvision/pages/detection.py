"""The page about the scores of a detector."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ctxvision.evaluation.detection import DetectionScores
from ctxvision.explain import box_cams
from ctxvision.inference import Predictor
from ctxvision.inference.detection import as_input
from ctxvision.plots.boxes import draw_boxes
from ctxvision.plots.pixels import data_uri, to_picture

from .looks import Look, heat_map
from .template import Drawing, data_words, drawn, page_template

_ROWS = 100  # classes of a table; of more, the least precise
_SMALL = 128  # pixels of an image that is shown without any loss


_LOOKS = 4  # images whose best object is explained


def looks(predictor: Predictor, scores: DetectionScores) -> list[Look]:
    """Explain the object with the highest score on some images."""
    task: Any = predictor.module
    if task is None:
        return []
    found: list[Look] = []
    for entry, example in zip(scores.numbers["examples"], scores.examples, strict=True):
        if not example.found or len(found) == _LOOKS:
            continue
        best = max(example.found, key=lambda one: float(one["score"]))
        x, y, width, height = best["bbox"]
        picture = to_picture(example.pixels)
        image = as_input(picture).to(task.device)
        (cam,) = box_cams(task.model, image, [[x, y, x + width, y + height]], [best["label"]])
        if cam is None:
            continue
        pixels = np.asarray(picture.convert("RGB"), np.float32) / 255
        words = f"for “{best['class']}”, {best['score']:.2f}"
        heats = [heat_map(pixels, cam.cam.map, words), heat_map(pixels, cam.cam.in_place, f"{words}, in place")]
        found.append(Look(_picture(picture, [best]), entry["file"], heats))
    return found


def render(scores: DetectionScores, looks: Sequence[Look] = ()) -> str:
    """Return the HTML page about the scores of a detector, with heat maps if there are any."""
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
        looks=looks,
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


_PRECISION = (
    "How many of the objects are found, and how few others, on the held-out images after each epoch. Higher is "
    "better; 100 % would be every object, with a perfect outline and nothing else."
)


_LOSS = (
    "How far the answers are from the truth on the training images, after each epoch. It should fall; where it "
    "rises or is flat from the start, nothing is learnt."
)


def _curves(rows: list[dict[str, float | None]]) -> list[Drawing]:
    if not rows:
        return []
    drawings: list[Drawing] = []
    precision = {"box": [r.get("val_box_ap") for r in rows]}
    if any("val_mask_ap" in r for r in rows):
        precision["mask"] = [r.get("val_mask_ap") for r in rows]
    best = max((value for value in precision["box"] if value is not None), default=None)
    if best is not None:
        label = f"Validation AP over {len(rows)} epochs, best of boxes {100 * best:.1f} %"
        drawings.append(drawn("Average precision", precision, label, "ap", _PRECISION, percent=True))
    label = f"Training loss over {len(rows)} epochs"
    losses = {"training": [r.get("train_loss") for r in rows]}
    return [*drawings, drawn("Training loss", losses, label, "loss", _LOSS)]
