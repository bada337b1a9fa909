"""The page about the scores of a video network, with or without a control."""

from typing import Any

from ctxvision.evaluation.video import VideoExample, VideoScores
from ctxvision.inference.video import Clip
from ctxvision.plots.clips import filmstrip

from .template import data_words, drawn, page_template


def render(scores: VideoScores) -> str:
    """Return the HTML page about the scores of a video network."""
    numbers, networks = scores.numbers, scores.numbers["networks"]
    label = "; ".join(f"{n['name']}: {100 * n['top1']:.1f} % of the videos right" for n in networks)
    curves = {n["name"]: n["curve"] for n in networks if n["curve"]}
    accuracy = f"Accuracy by epoch; {label}"
    return page_template("video.html.j2").render(
        r=numbers,
        strips=[_strip(example) for example in scores.examples],
        drawings=[drawn("Validation accuracy", curves, accuracy, "accuracy", percent=True)] if curves else [],
        what=data_words(numbers["split"], "videos"),
        pixelated=max(numbers["image_size"][1:]) <= 64,
    )


def _strip(example: VideoExample) -> dict[str, Any]:
    return {
        "file": example.file,
        "truth": example.truth,
        "picture": filmstrip(example.clips[0].pixels),
        "says": [_says(clip, example.truth) for clip in example.clips],
    }


def _says(clip: Clip, truth: str) -> dict[str, Any]:
    best = clip.top[0]
    return {
        "prediction": best.name,
        "probability": best.probability,
        "right": best.name == truth,
        "by_frame": [frame.name for frame in clip.frames],
    }
