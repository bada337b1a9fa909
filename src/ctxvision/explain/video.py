"""Explanations of video networks: Grad-CAM for the class of a clip, in every frame."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor, nn

from ctxvision.data import ClipSpec
from ctxvision.inference.predictor import Given
from ctxvision.inference.video import VideoSource, open_video
from ctxvision.models._figures import evaluation_mode
from ctxvision.plots.clips import filmstrip
from ctxvision.plots.picture import Picture
from ctxvision.plots.style import short

from .cams import FrameCams, over_images, rounded, weigh, where_most
from .explanation import (
    ExplainedNetwork,
    ImageExplanation,
    Preview,
    Row,
    Table,
    TaskExplainer,
    ranked,
    require_finite,
)
from .figures.cams import frames_picture
from .layer_contents import add_layer_contents
from .layers import find_layer, map_layers

if TYPE_CHECKING:
    from ctxvision.data.video.reading import Video
    from ctxvision.tasks.video import VideoTask


class ClipNetwork(nn.Module):
    """The network of a video task, ``model``, for one clip whose frames are a batch (T, C, H, W).

    Args:
        task: The task that shares its weights with this network.
    """

    def __init__(self, task: "VideoTask") -> None:
        super().__init__()
        self.model = task.model
        self._classify = task.classify

    def forward(self, frames: Tensor) -> Tensor:
        """Return the logits (1, num_classes) of the clip whose frames are (T, C, H, W)."""
        output = self._classify(frames[None])[0]
        return output if isinstance(output, Tensor) else output.logits


def frame_cams(
    model: "VideoTask", clip: Tensor, target: int | None = None, *, layer: str | None = None
) -> FrameCams:
    """Compute Grad-CAM for the class of a clip, for all its frames at once.

    The explained score is the logit of the clip. Features that a frame passes to its neighbours by the temporal
    shift count in the frame where they were seen. Each frame is weighed by its own gradients, like each image of a
    batch.

    Args:
        model: The video task, which holds the network and its temporal shifts, on the device to use.
        clip: The normalised frames, (T, C, H, W), on the same device.
        target: The number of the class; by default the class that the network answers.
        layer: The name of a layer that `map_layers` lists for ``model.model``; by default the end of the last
            stage with at least 4 × 4 positions.

    Returns:
        The Grad-CAM of all frames.

    Raises:
        LayerError: There is no layer of this name.
        ValueError: The class does not exist.

    Examples:
        >>> import torch
        >>> from ctxvision.tasks.video import VideoTask
        >>> spec = {"class_names": ["left", "right"], "input_size": [3, 64, 64], "frames": 4}
        >>> found = frame_cams(VideoTask("cotnet_micro", spec), torch.rand(4, 3, 64, 64))
        >>> found.layer.name, found.raw.shape, found.maps.shape
        ('layer3', (4, 4, 4), (4, 64, 64))
    """
    network = ClipNetwork(model)
    with evaluation_mode(network):
        logits = network(clip)[0]
    chosen = int(logits.argmax()) if target is None else target
    if not 0 <= chosen < len(logits):
        raise ValueError(f"the class must lie in 0..{len(logits) - 1}, got {chosen}")
    frames, model.shifts.frames = model.shifts.frames, 1
    try:
        found = find_layer(map_layers(model.model, clip[:1]), layer)
    finally:
        model.shifts.frames = frames
    seen = weigh(network, clip, f"model.{found.name}", lambda logits: logits[chosen])
    return FrameCams(found, over_images(seen.raw, clip.shape[2:]), seen.raw, chosen)


@dataclass(frozen=True)
class _Answer:
    """The answer of one network for a clip, with its Grad-CAM.

    Attributes:
        chances: The probabilities of the classes, (num_classes,).
        frames: The numbers of the T frames in the video.
        pixels: The frames as the network saw them, RGB from 0 to 1, (T, H, W, 3).
        clip: The network's input, (T, C, H, W).
        cams: The Grad-CAM of the class that is explained.
    """

    chances: np.ndarray
    frames: list[int]
    pixels: np.ndarray
    clip: Tensor
    cams: FrameCams


class Explainer(TaskExplainer):
    """Explains what a video network answers."""

    def look(self, source: Given, file: str, name: str) -> ImageExplanation:
        """Explain the answer for one video, or the class that was asked for; see `explanation.Explainer`."""
        request, network = self.request, self.request.network
        video = open_video(cast(VideoSource, source))
        answer = _explain(network, video, file, request.class_name)
        ranking = ranked(answer.chances, network.class_names)
        rows = [Row(row["class"], row["probability"]) for row in ranking]
        explained = ImageExplanation(
            file,
            [answer.cams],
            entry=_numbers(answer, network),
            previews=[_preview(answer, file)],
            tables=[Table(f"the clip, {network.label}", rows)],
            drawings=[partial(_draw, answer, network, f"{name}-grad-cam")],
        )
        if request.against is not None:
            theirs = _explain(request.against, video, file, request.class_name)
            explained.against_cams = [theirs.cams]
            explained.entry["against"] = _numbers(theirs, request.against)
            explained.drawings.append(partial(_draw, theirs, request.against, f"{name}-grad-cam-against"))
        _add_layers(explained, network.task, answer, name)
        return explained


def _explain(network: ExplainedNetwork, video: "Video", file: str, wanted: str | None) -> _Answer:
    """Explain what one network answers, or the class that was asked for, in the frames that it takes."""
    from ctxvision.data.video.clips import view_crops, view_indices

    spec, task = cast(ClipSpec, network.predictor.data_spec), network.task
    (frames,) = view_indices(video.frames, spec.frames, 1)
    (view,) = view_crops(video.read(frames), spec.input_size[1:], spec.crop_pct, 1, spec.interpolation)
    clip = spec.normalize(view).to(task.device)
    chances = ClipNetwork(task)(clip)[0].double().softmax(0)  # type: ignore[arg-type]
    require_finite(chances, file)
    target = int(chances.argmax()) if wanted is None else network.class_names.index(wanted)
    cams = frame_cams(task, clip, target, layer=network.layer)  # type: ignore[arg-type]
    pixels = view.permute(0, 2, 3, 1).numpy().astype(np.float32) / 255
    return _Answer(chances.cpu().numpy(), frames, pixels, clip, cams)


def _numbers(answer: _Answer, network: ExplainedNetwork) -> dict[str, Any]:
    names, cams = network.class_names, answer.cams
    ranking = ranked(answer.chances, names)
    return {
        "answer": ranking[0]["class"],
        "predictions": ranking,
        "grad_cam": {
            "class": names[cams.target],
            "probability": float(answer.chances[cams.target]),
            "layer": cams.layer.name,
            "size": list(cams.layer.size),
            "frames": answer.frames,
            "maps": rounded(cams.raw),
        },
    }


def _preview(answer: _Answer, file: str) -> Preview:
    frames = (answer.pixels * 255).round().astype(np.uint8)
    names = ", ".join(map(str, answer.frames))
    alt = f"{file}, frames {names}"
    return Preview(filmstrip(frames), alt, f"frames {names}", pixelated=max(frames.shape[1:3]) <= 64)


def _draw(answer: _Answer, network: ExplainedNetwork, name: str) -> Picture:
    cams, layer = answer.cams, answer.cams.layer
    return frames_picture(
        answer.pixels,
        cams.maps,
        [f"frame {number}" for number in answer.frames],
        name,
        title=f"What speaks for “{short(network.class_names[cams.target], 24)}”, {network.label}",
        what="Where the network found evidence for the class in each frame; it gives the clip this class with a "
        f"probability of {answer.chances[cams.target]:.0%}.",
        where=f"Grad-CAM of {network.label} at {layer.name}, {layer.size[0]} × {layer.size[1]} positions.",
    )


def _add_layers(explained: ImageExplanation, task: Any, answer: _Answer, name: str) -> None:
    """Add the offsets and kernels in the frame with the strongest evidence for the class."""
    place = int(answer.cams.maps.max((1, 2)).argmax())
    frame, at = answer.frames[place], where_most(answer.cams.maps[place])
    before = len(explained.drawings)
    add_layer_contents(
        explained, ClipNetwork(task), answer.clip, answer.pixels[place], at, name,
        row=place, prefix="model.", frame=frame,
    )  # fmt: skip
    if len(explained.drawings) > before:
        explained.entry["layers_of_frame"] = frame
        explained.notes.append(f"What the layers do is drawn for frame {frame}, in which Grad-CAM is highest.")
