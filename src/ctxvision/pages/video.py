"""The page about the scores of a video network, with or without a control."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ctxvision.data import ClipSpec
from ctxvision.evaluation.video import VideoExample, VideoScores
from ctxvision.explain import frame_cams
from ctxvision.inference import Predictor
from ctxvision.inference.video import Clip
from ctxvision.plots.clips import filmstrip
from ctxvision.tasks.video import VideoTask
from ctxvision.wording import percent

from .looks import Look, heat_map, uri
from .template import data_words, drawn, page_template

_ACCURACY = (
    "The share of held-out videos that are answered right, after each epoch. Higher is better; the distance of "
    "two curves is what the difference between the networks is worth."
)
_LOOKS = 4  # videos whose answer is explained


def looks(predictor: Predictor, scores: VideoScores) -> list[Look]:
    """Explain the answers to some videos, mistakes first and one of a class, in the frame that says most."""
    task, spec, found = predictor.module, predictor.data_spec, []
    if not isinstance(task, VideoTask) or not isinstance(spec, ClipSpec):
        return []
    of_class: dict[str, Any] = {}
    for example in sorted(scores.examples, key=lambda one: one.clips[0].top[0].name == one.truth):
        of_class.setdefault(example.truth, example)
    for example in list(of_class.values())[:_LOOKS]:
        clip = example.clips[0]
        view = torch.from_numpy(np.array(clip.pixels)).permute(0, 3, 1, 2)
        cams = frame_cams(
            task, spec.normalize(view).to(task.device), scores.numbers["class_names"].index(clip.top[0].name)
        )
        frame = int(cams.maps.max((1, 2)).argmax())
        pixels = clip.pixels[frame].astype(np.float32) / 255
        words = f"for “{clip.top[0].name}”, {percent(clip.top[0].probability)}, frame {clip.indices[frame]}"
        heat = heat_map(pixels, cams.maps[frame], words)
        found.append(Look(uri(pixels), f"it is “{example.truth}”", [heat], clip.top[0].name == example.truth))
    return found


def render(scores: VideoScores, looks: Sequence[Look] = ()) -> str:
    """Return the HTML page about the scores of a video network, with heat maps if there are any."""
    numbers, networks = scores.numbers, scores.numbers["networks"]
    label = "; ".join(f"{n['name']}: {100 * n['top1']:.1f} % of the videos right" for n in networks)
    curves = {n["name"]: n["curve"] for n in networks if n["curve"]}
    accuracy = f"Accuracy by epoch; {label}"
    return page_template("video.html.j2").render(
        r=numbers,
        strips=[_strip(example) for example in scores.examples],
        drawings=[drawn("Validation accuracy", curves, accuracy, "accuracy", _ACCURACY, percent=True)]
        if curves
        else [],
        looks=looks,
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
