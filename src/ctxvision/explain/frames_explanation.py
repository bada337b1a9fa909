"""What an explanation says about a video network: which places of which frames speak for the clip's class."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ctxvision.data.clips import ClipSpec
from ctxvision.data.video import Video

from .clips import ClipPrediction, predict_clip
from .error import ReportError
from .frame_cams import FrameCams, frame_cams
from .parts_explanation import Finding, Network, Sample, as_lists
from .pictures import Picture
from .pictures.parts import frames_picture
from .pictures.style import short

_TOP = 5


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
    entry, picture, chances = _explain(network, file, video, f"{name}-grad-cam", labels[0], asked)
    sample.entry |= entry
    sample.pictures.append(picture)
    sample.findings = [Finding(row["class"], row["probability"]) for row in chances]
    if against is not None:
        theirs = None if asked is None else against.names.index(network.names[asked])
        sample.entry["against"], picture, _ = _explain(
            against, file, video, f"{name}-grad-cam-against", labels[1], theirs
        )
        sample.pictures.append(picture)
    return sample


def _explain(
    network: Network, file: str, video: Video, name: str, label: str, asked: int | None
) -> tuple[dict[str, Any], Picture, list[dict[str, Any]]]:
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
    return entry, _picture(seen, cams, names[target], float(seen.probabilities[target]), name, label), ranking


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
