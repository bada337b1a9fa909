"""Grad-CAM for video: which places of which frames speak for the class of a clip."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ctxvision.models._figures import evaluation_mode
from ctxvision.tasks.video import VideoTask

from .grad_cam import look
from .layers import MapLayer, find_layer, map_layers


@dataclass(frozen=True)
class FrameCams:
    """What speaks for one class in the T frames of a clip.

    Attributes:
        layer: whose map was weighed.
        maps: (T, H, W) float32 from 0 to 1, of the highest value in the clip: frames can be compared.
        raw: as they are at the layer, (T, h, w) float32.
        target: the class.
    """

    layer: MapLayer
    maps: np.ndarray
    raw: np.ndarray
    target: int


class ClipNetwork(nn.Module):
    """The network of a video task, ``model``, for one clip, whose frames come as a batch (T, C, H, W).

    Args:
        task: shares its weights.
    """

    def __init__(self, task: VideoTask) -> None:
        super().__init__()
        self.model = task.model
        self._classify = task.classify

    def forward(self, frames: Tensor) -> Tensor:
        """Return the logits of the clip, (1, num_classes)."""
        output = self._classify(frames[None])[0]
        return output if isinstance(output, Tensor) else output.logits


def frame_cams(task: VideoTask, clip: Tensor, target: int | None = None, *, layer: str | None = None) -> FrameCams:
    """Compute Grad-CAM for the class of a clip, for all its frames at once, with pytorch-grad-cam.

    What is explained is the logit of the clip. What a frame lends its neighbours by the temporal shift counts
    where it was seen. Each frame is weighed by its own gradients, as a batch of images is.

    Args:
        task: on the device to use.
        clip: (T, C, H, W), normalised, on that device.
        target: the class; by default what the network answers.
        layer: a name of `map_layers` of ``task.model``; by default the end of the last stage with at least 4 × 4
            positions.

    Raises:
        LayerError: no such layer.
        ValueError: the class does not exist.

    Examples:
        >>> spec = {"class_names": ["left", "right"], "input_size": [3, 64, 64], "frames": 4}
        >>> found = frame_cams(VideoTask("cotnet_micro", spec), torch.rand(4, 3, 64, 64))
        >>> found.layer.name, found.raw.shape, found.maps.shape
        ('layer3', (4, 4, 4), (4, 64, 64))
    """
    model = ClipNetwork(task)
    with evaluation_mode(model):
        logits = model(clip)[0]
    chosen = int(logits.argmax()) if target is None else target
    if not 0 <= chosen < len(logits):
        raise ValueError(f"the class must lie in 0..{len(logits) - 1}, got {chosen}")
    frames, task.shifts.frames = task.shifts.frames, 1
    try:
        found = find_layer(map_layers(task.model, clip[:1]), layer)
    finally:
        task.shifts.frames = frames
    seen = look(model, clip, f"model.{found.name}", lambda logits: logits[chosen])
    heat = torch.from_numpy(seen.raw).clamp(min=0)[:, None]
    heat = torch.nn.functional.interpolate(heat, clip.shape[2:], mode="bilinear")[:, 0]
    return FrameCams(found, (heat / heat.max().clamp(min=1e-12)).numpy(), seen.raw, chosen)
