"""The page about the scores of a segmentation network."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ctxvision.data import SegmentationSpec
from ctxvision.evaluation.segmentation import SegmentationExample, SegmentationScores
from ctxvision.explain import pixel_cams
from ctxvision.inference import Predictor
from ctxvision.plots.overlays import Color, colorize, overlay
from ctxvision.plots.pixels import data_uri, to_picture
from ctxvision.wording import percent

from .looks import Look, heat_map, uri
from .template import LOSS, Drawing, data_words, drawn, page_template

_IGNORE = 255
_SMALL = 160  # pixels of an image that is shown without any loss


_LOOKS = 4  # images whose largest classes are explained


def looks(predictor: Predictor, scores: SegmentationScores) -> list[Look]:
    """Explain the two classes that take most pixels on some images."""
    task, spec, found = predictor.module, predictor.data_spec, []
    if task is None or not isinstance(spec, SegmentationSpec):
        return []
    names = scores.numbers["class_names"]
    for example in scores.examples[:_LOOKS]:
        picture = to_picture(example.pixels)
        pixels = np.asarray(picture.convert("RGB"), np.float32) / 255
        view = spec.eval_transform()(picture).to(task.device)
        classes, counts = np.unique(example.classes.numpy(), return_counts=True)
        most = classes[np.argsort(-counts, kind="stable")][:2].tolist()
        heats = [
            heat_map(pixels, cam.cam.map, f"for “{names[target]}”")
            for target, cam in zip(most, pixel_cams(task.model, view, most), strict=True)
        ]
        found.append(Look(uri(pixels), f"image {example.position + 1}", heats))
    return found


def render(scores: SegmentationScores, looks: Sequence[Look] = ()) -> str:
    """Return the HTML page about the scores of a segmentation network, with heat maps if there are any."""
    numbers = scores.numbers
    colors = [row["color"] for row in numbers["classes"]]
    return page_template("segmentation.html.j2").render(
        r=numbers,
        pictures={one.position: _pictures(one, colors) for one in scores.examples},
        drawings=_curves(numbers["training"]) if numbers["training"] else [],
        looks=looks,
        what=data_words(numbers["split"], "images"),
        pixels=sum(row["pixels"] for row in numbers["classes"]),
    )


def _pictures(example: SegmentationExample, colors: Sequence[Color]) -> list[str]:
    """Draw the image, the truth over it, the prediction over it, and the pixels where these differ."""
    plain = to_picture(example.pixels).convert("RGB")
    differ = (example.classes != example.truth) & (example.truth != _IGNORE)
    mistakes = np.where(
        differ[..., None].numpy(),
        colorize(example.classes, colors),
        np.asarray(plain.convert("L"))[..., None] // 3,
    )
    shown = (
        plain,
        overlay(plain, example.truth, colors),
        overlay(plain, example.classes, colors),
        Image.fromarray(mistakes),
    )
    return [data_uri(picture, lossless=max(picture.size) <= _SMALL) for picture in shown]


_MIOU = (
    "How much prediction and truth have in common on the held-out images, on average over the classes, after "
    "each epoch. Higher is better; 100 % would be every pixel right."
)


def _curves(training: Mapping[str, Any]) -> list[Drawing]:
    rows = training["curve"]
    quality = f"Mean IoU on validation images over {len(rows)} epochs"
    if training["best_epoch"]:
        quality += f", best {percent(training['best_miou'])} in epoch {training['best_epoch']}"
    losses = {"validation": [r["val_loss"] for r in rows], "training": [r["train_loss"] for r in rows]}
    loss = f"Training and validation loss over {len(rows)} epochs"
    ious = {"validation": [r["val_miou"] for r in rows]}
    return [
        drawn("Mean IoU", ious, quality, "miou", _MIOU, percent=True),
        drawn("Loss", losses, loss, "loss", LOSS),
    ]
