"""The page about the scores of a classifier."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from ctxvision.evaluation.classification import ClassificationScores
from ctxvision.plots.confusion_image import confusion_picture
from ctxvision.plots.pixels import is_small, thumbnail
from ctxvision.plots.reliability import reliability_diagram

from .template import data_words, page_template

_MATRIX = 25  # more classes make a picture and a list of mistakes instead of a table
_ROWS = 30  # of such lists


def render(scores: ClassificationScores) -> str:
    """Return the HTML page about the scores of a classifier."""
    return page_template("classification.html.j2").render(page_values(scores, scores.numbers))


def page_values(scores: ClassificationScores, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values for the template and for templates that extend it.

    Args:
        scores: The findings of the evaluation.
        numbers: The numbers of the scores, with further numbers in a report.
    """
    classes, mean, std = numbers["classes"], scores.mean, scores.std
    few = len(classes) <= _MATRIX
    confusion = np.array(numbers["confusion"])
    return {
        "r": numbers,
        "what": data_words(numbers["split"], "images"),
        "best_of": None,
        "pictures": {position: thumbnail(image, mean, std) for position, image in scores.pictures.items()},
        "pixelated": all(map(is_small, scores.pictures.values())),
        "cells": numbers["confusion"] if few else None,
        "confusion_image": None if few else confusion_picture(confusion),
        "pairs": numbers["confused"][:_ROWS],
        "kinds": int(np.count_nonzero(confusion) - np.count_nonzero(confusion.diagonal())),
        "weakest": _weakest(classes),
        "others": [row for row in classes if row["images"]] if len(classes) > _ROWS else [],
        # nothing but numbers and our own words is in it
        "diagram": Markup(reliability_diagram(numbers["calibration"])),
        "rate": _rate,
    }


def _weakest(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return all classes in their order; of many classes, those with the lowest accuracy."""
    if len(classes) <= _ROWS:
        return classes
    return sorted((c for c in classes if c["images"]), key=lambda c: float(c["top1"]))[:_ROWS]


def _rate(speed: Mapping[str, Any] | None) -> str:
    if speed is None:
        return "–"
    rate = speed["images_per_second"]
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
