"""A trained video network, beside its control without shifts, as one HTML page that needs nothing else."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from ctxvision.data.video.data import VideoData
from ctxvision.data.video.reading import Frames
from ctxvision.inference.video import predict_clip, predict_dataset
from ctxvision.pages.template import page_template
from ctxvision.plots.figures import curve
from ctxvision.runs import Run
from ctxvision.tasks.video import VideoTask

from .by_class import class_table, confusion_matrix
from .drawings import Drawings
from .predictions import wilson_interval

_PER_CLASS = 2  # filmstrips
_CLASSES = 12
_SIDE = 96  # of a frame in a filmstrip


@dataclass(frozen=True)
class TrainedVideo:
    """A run and what came of it.

    Attributes:
        name: what a reader should call it, such as ``TSM``.
        run: its curves and settings.
        task: of its checkpoint.
    """

    name: str
    run: Run
    task: VideoTask


@dataclass(frozen=True)
class ClipsReport:
    """All that a page shows.

    Attributes:
        numbers: plain Python values, for a JSON file.
        strips: frames of some videos with what the networks say about them.
    """

    numbers: dict[str, Any]
    strips: Drawings[dict[str, Any]]


def make_clips_report(trained: Sequence[TrainedVideo], data: VideoData, data_name: str) -> ClipsReport:
    """Run networks over the same videos and put together what a reader should know.

    Args:
        trained: one or two; the first is what the page is about, the second its control.
        data: what to look at, by its ``eval_dataset``.
        data_name: what the user calls it.

    Raises:
        ReportError: not one video can be read.
    """
    dataset, names = data.eval_dataset(), list(data.spec.class_names)
    networks, chances = [], []
    for entry in trained:
        probabilities, places = predict_dataset(entry.task, dataset)
        targets = np.array([dataset.samples[place][1] for place in places])
        confusion = confusion_matrix(targets, probabilities.argmax(1), len(names))
        right = int(confusion.diagonal().sum())
        chances.append(probabilities)
        networks.append(
            {
                "name": entry.name,
                "model": entry.task.hparams["model"],
                "shift": entry.task.shifts.shift,
                "parameters": sum(p.numel() for p in entry.task.model.parameters()),
                "right": right,
                "top1": right / len(places),
                "top1_interval95": list(wilson_interval(right, len(places))),
                "classes": class_table(confusion, names),
                "confusion": confusion.tolist(),
                "curve": [epoch.val_top1 for epoch in entry.run.epochs],
                "seconds": sum(epoch.seconds or 0.0 for epoch in entry.run.epochs) or None,
                "checkpoint": str(entry.run.checkpoint),
            }
        )
    strips = Drawings[dict[str, Any]]()
    for row in _instructive(targets, chances[0]):
        name, target = dataset.samples[places[row]]
        strips.draw(row, _strip, name, names, target, trained, data)
    numbers = {
        "data": data_name,
        "videos": len(places),
        "unread": len(dataset) - len(places),
        "chance": 1 / len(names),
        "class_names": names,
        "frames": data.spec.frames,
        "image_size": list(data.spec.input_size),
        "networks": networks,
    }
    return ClipsReport(numbers, strips)


def _instructive(targets: np.ndarray, probabilities: np.ndarray) -> list[int]:
    """Choose of each class a right answer and, where there is one, the worst mistake."""
    rows = []
    right = probabilities.argmax(1) == targets
    for label in np.unique(targets)[:_CLASSES]:
        good, bad = np.flatnonzero((targets == label) & right), np.flatnonzero((targets == label) & ~right)
        bad = bad[np.argsort(probabilities[bad, label], kind="stable")]
        rows += [int(row) for row in (*bad[:1], *good)][:_PER_CLASS]
    return rows


def _strip(
    name: str, names: Sequence[str], target: int, trained: Sequence[TrainedVideo], data: VideoData
) -> dict[str, Any]:
    video = data.open_video(name)
    seen = [predict_clip(entry.task, video) for entry in trained]
    return {
        "file": name,
        "truth": names[target],
        "picture": filmstrip(seen[0].pixels),
        "says": [
            {
                "prediction": names[int(p.probabilities.argmax())],
                "probability": float(p.probabilities.max()),
                "right": int(p.probabilities.argmax()) == target,
                "by_frame": [names[int(frame.argmax())] for frame in p.by_frame],
            }
            for p in seen
        ],
    }


def filmstrip(pixels: Frames) -> str:
    """Put frames (T, H, W, 3) beside each other as a data URI."""
    count, height, width = pixels.shape[:3]
    gap = max(height // 16, 1)
    row = np.full((height, count * (width + gap) - gap, 3), 255, np.uint8)
    for index, frame in enumerate(pixels):
        row[:, index * (width + gap) : index * (width + gap) + width] = frame
    picture = Image.fromarray(row)
    if height > _SIDE:
        picture = picture.resize((round(picture.width * _SIDE / height), _SIDE))
    file = io.BytesIO()
    picture.save(file, "webp", lossless=height <= 64, quality=85)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def render_clips(report: ClipsReport) -> str:
    """Return the page."""
    numbers, networks = report.numbers, report.numbers["networks"]
    label = "; ".join(f"{n['name']}: {100 * n['top1']:.1f} % of the videos right" for n in networks)
    curves = {n["name"]: n["curve"] for n in networks if n["curve"]}
    drawing = curve(curves, f"Accuracy by epoch; {label}", "accuracy", percent=True) if curves else ""
    # numbers, our own words, and names that the drawing escapes are in it
    return page_template("video.html.j2").render(
        r=numbers,
        strips=list(report.strips.by_place().values()),
        drawings=[("Validation accuracy", Markup(drawing))] if drawing else [],
        what="held-out videos",
        pixelated=max(numbers["image_size"][1:]) <= 64,
    )
