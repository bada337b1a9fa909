"""What an explanation says about a video network: which places of which frames speak for the clip's class."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ctxvision.data.video.clips import ClipSpec
from ctxvision.data.video.reading import Video
from ctxvision.inference.video import ClipPrediction, predict_clip
from ctxvision.plots.style import short

from .error import ReportError
from .explanation_layers import of_one, show_bends, show_kernels, where_most
from .frame_cams import ClipNetwork, FrameCams, frame_cams
from .generated_kernels import generated_kernels, kernel_layers
from .offsets import bends, contextual_layers
from .parts_explanation import Finding, Network, Sample, as_lists
from .pictures import Picture
from .pictures.parts import frames_picture

_TOP = 5


class _Looked(NamedTuple):
    seen: ClipPrediction
    clip: Tensor
    """What the network read, (T, C, H, W)."""
    cams: FrameCams


def explain_frames(
    network: Network,
    file: str,
    video: Video,
    name: str,
    *,
    labels: Sequence[str],
    asked: int | None = None,
    against: Network | None = None,
) -> Sample:
    """Explain what a video network answers.

    Args:
        network: a `VideoTask`.
        file: what to call the video.
        video: it.
        name: how names of figures begin.
        labels: what the figures call the networks.
        asked: class to explain; by default the answer.
        against: a network of the same classes, for its own answer or the class asked for.

    Raises:
        ReportError: an output is not a number.
        LayerError: see `frame_cams`.
        BadVideoError: it cannot be decoded.
    """
    sample = Sample({"file": file}, f"the clip, {labels[0]}")
    entry, picture, chances, looked = _explain(network, file, video, f"{name}-grad-cam", labels[0], asked)
    sample.entry |= entry
    sample.pictures.append(picture)
    sample.findings = [Finding(row["class"], row["probability"]) for row in chances]
    if against is not None:
        theirs = None if asked is None else against.names.index(network.names[asked])
        sample.entry["against"], picture, _, _ = _explain(
            against, file, video, f"{name}-grad-cam-against", labels[1], theirs
        )
        sample.pictures.append(picture)
    _add_layers(sample, network, looked, name)
    return sample


def _add_layers(sample: Sample, network: Network, looked: _Looked, name: str) -> None:
    """Add offsets and kernels in the frame that says most for the class."""
    task = network.task
    seen, cams = looked.seen, looked.cams
    frame = int(cams.maps.max((1, 2)).argmax())
    pixels = seen.pixels[frame].astype(np.float32) / 255
    made: list[Picture] = []
    whole, prefix = ClipNetwork(task), "model."
    if contextual_layers(task.model):
        of_frame = [of_one(bend, frame, prefix) for bend in bends(whole, looked.clip)]
        at = where_most(cams.maps[frame])
        sample.entry["bends"], pictures = show_bends(task.model, of_frame, pixels, at, name)
        made += pictures
    if kernel_layers(task.model):
        kernels = [of_one(layer, frame, prefix) for layer in generated_kernels(whole, looked.clip)]
        sample.entry["kernels"], pictures = show_kernels(task.model, kernels, pixels, name)
        made += pictures
    if made:
        sample.entry["layers_of_frame"] = int(seen.indices[frame])
        sample.notes.append(
            f"What the layers do is drawn for frame {seen.indices[frame]}, in which Grad-CAM is highest."
        )
        sample.pictures += [replace(p, title=f"{p.title}, frame {seen.indices[frame]}") for p in made]


def _explain(
    network: Network, file: str, video: Video, name: str, label: str, asked: int | None
) -> tuple[dict[str, Any], Picture, list[dict[str, Any]], _Looked]:
    task, names = network.task, network.names
    spec = ClipSpec.from_dict(task.data_spec)
    seen = predict_clip(task, video)
    if not np.isfinite(seen.probabilities).all():
        raise ReportError(f"{file}: the output of the network is NaN or infinite; its weights are broken")
    target = int(seen.probabilities.argmax()) if asked is None else asked
    clip = spec.normalize(_channels_first(seen)).to(task.device)
    cams = frame_cams(task, clip, target, layer=network.layer)
    order = np.argsort(-seen.probabilities, kind="stable")[:_TOP].tolist()
    ranking = [{"class": names[c], "probability": float(seen.probabilities[c])} for c in order]
    entry = {
        "answer": ranking[0]["class"],
        "predictions": ranking,
        "grad_cam": {
            "class": names[target],
            "probability": float(seen.probabilities[target]),
            "layer": cams.layer.name,
            "size": list(cams.layer.size),
            "frames": list(seen.indices),
            "maps": [as_lists(raw) for raw in cams.raw],
        },
    }
    picture = _picture(seen, cams, names[target], float(seen.probabilities[target]), name, label)
    return entry, picture, ranking, _Looked(seen, clip, cams)


def _channels_first(seen: ClipPrediction) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(seen.pixels)).permute(0, 3, 1, 2)


def _picture(
    seen: ClipPrediction, cams: FrameCams, class_name: str, chance: float, name: str, label: str
) -> Picture:
    layer = cams.layer
    return frames_picture(
        seen.pixels.astype(np.float32) / 255,
        cams.maps,
        [f"frame {index}" for index in seen.indices],
        name,
        title=f"What speaks for {short(class_name, 24)}, {label}",
        caption=f"Grad-CAM for the logit of the clip, whose probability is {chance:.0%}; all frames on one scale. "
        f"{label} at {layer.name}, {layer.size[0]} × {layer.size[1]} positions.",
    )
