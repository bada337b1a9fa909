"""What a video network says about clips: arrays first, then the clip with the answers written on it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ctxvision.data.dataset import BadImage
from ctxvision.data.video.clips import ClipSpec, view_crops, view_indices
from ctxvision.data.video.data import ClipDataset
from ctxvision.data.video.reading import Frames, Video
from ctxvision.explain.error import ReportError
from ctxvision.foreign import visible
from ctxvision.plots.fonts import font_for
from ctxvision.tasks.video import VideoTask

Array = NDArray[np.float64]
_SIDE = 192  # labelled frames are enlarged to this, in whole steps


@dataclass(frozen=True)
class ClipPrediction:
    """What a network says about one video.

    Attributes:
        probabilities: of the classes, (num_classes,): mean over the views.
        by_frame: (T, num_classes), of the frames of the middle view.
        indices: which frames of the video those are.
        pixels: what the network saw of them, (T, H, W, 3).
    """

    probabilities: Array
    by_frame: Array
    indices: tuple[int, ...]
    pixels: Frames


def predict_clip(task: VideoTask, video: Video, *, clips: int = 1, crops: int = 1) -> ClipPrediction:
    """Classify a video as a whole and frame by frame.

    Args:
        task: trained; on the device to use.
        video: see `ctxvision.data.video.reading.VideoFile`.
        clips: spread over the video.
        crops: of each, 1 or 3.

    Raises:
        BadVideoError: it cannot be decoded.
    """
    spec = ClipSpec.from_dict(task.data_spec)
    chosen = view_indices(video.frames, spec.frames, clips)
    views = torch.cat([view_crops(video.read(i), spec.input_size[1:], spec.crop_pct, crops) for i in chosen])
    middle = len(views) // 2
    probabilities, by_frame = _classify(task, spec.normalize(views))
    pixels = views[middle].permute(0, 2, 3, 1).contiguous().numpy()
    return ClipPrediction(probabilities.mean(0), by_frame[middle], tuple(chosen[middle // crops]), pixels)


def predict_dataset(task: VideoTask, dataset: ClipDataset, batch_size: int = 16) -> tuple[Array, list[int]]:
    """Classify the videos of a data set.

    Args:
        task: trained; on the device to use.
        dataset: of `VideoData.eval_dataset`.
        batch_size: videos at a time.

    Returns:
        Probabilities (N, num_classes) of the N videos that could be read, and their places in the data set.

    Raises:
        ReportError: none could be read.
    """
    rows, places, waiting = [], [], []
    for place in range(len(dataset)):
        sample = dataset[place]
        if not isinstance(sample, BadImage):
            waiting.append(sample.image)
            places.append(place)
        if waiting and (len(waiting) == batch_size or place == len(dataset) - 1):
            batch = torch.stack(waiting)
            views = batch.shape[1] if batch.dim() == 6 else 1
            probabilities, _ = _classify(task, batch.flatten(0, 1) if views > 1 else batch)
            rows.append(probabilities.reshape(len(waiting), views, -1).mean(1))
            waiting = []
    if not rows:
        raise ReportError("not one video can be read")
    return np.concatenate(rows), places


@torch.no_grad()
def _classify(task: VideoTask, clips: torch.Tensor) -> tuple[Array, Array]:
    output, frames = task.eval().classify(clips.to(task.device))
    logits = output if isinstance(output, torch.Tensor) else output.logits
    return logits.double().softmax(1).cpu().numpy(), frames.double().softmax(2).cpu().numpy()


def labelled_frames(
    prediction: ClipPrediction, class_names: Sequence[str], truth: str | None = None, top: int = 3
) -> Frames:
    """Write below each frame what the frame says, and below that what the clip says.

    Args:
        prediction: of `predict_clip`.
        class_names: one per class.
        truth: the true class, if it is known.
        top: how many classes of the clip.

    Returns:
        (T, H', W', 3), for `ctxvision.data.video.writing.write_video`.
    """
    class_names = [visible(name) for name in class_names]
    height, width = prediction.pixels.shape[1:3]
    scale = max(_SIDE // max(height, width), 1)
    best = np.argsort(-prediction.probabilities, kind="stable")[:top]
    lines = [f"{class_names[c]} {_percent(prediction.probabilities[c])}" for c in best]
    footer = ([f"is: {visible(truth)}"] if truth is not None else []) + ["clip:", *lines]
    font = font_for("".join([*class_names, *footer]), 13)
    shown = []
    for pixels, chances, index in zip(prediction.pixels, prediction.by_frame, prediction.indices, strict=True):
        page = Image.new("RGB", (max(width * scale, _SIDE), height * scale + 18 * (len(footer) + 1) + 8), "white")
        enlarged = Image.fromarray(pixels).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        page.paste(enlarged, ((page.width - enlarged.width) // 2, 0))
        draw, guess = ImageDraw.Draw(page), int(chances.argmax())
        says = f"frame {index}: {class_names[guess]} {_percent(chances[guess])}"
        for row, text in enumerate([says, *footer]):
            draw.text((6, height * scale + 4 + 18 * row), text, fill="black", font=font)
        shown.append(np.asarray(page))
    return np.stack(shown)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
