"""The classes of videos."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctxvision.data import ClipSpec, DataError
from ctxvision.data.video.clips import view_crops, view_indices
from ctxvision.data.video.reading import Frames, Video, VideoFile, VideoInMemory
from ctxvision.data.video.source import is_video

from .answer import BROKEN, InferenceError, Ranked, RankedAnswer, ranking
from .exported import Exported
from .predictor import Batch, Predictor, Wanted, as_numpy, described
from .preparing import Optimize

if TYPE_CHECKING:
    from ctxvision.tasks.video import ClipOutput, VideoTask

VideoSource: TypeAlias = str | os.PathLike[str] | Frames | Tensor | Video
Probabilities: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Clip(RankedAnswer):
    """What a video network says about a video.

    Attributes:
        top: The most probable classes with their probabilities, the most probable first.
        probabilities: The probabilities of all N classes, (N,), the mean over the views of the video.
        frames: The most probable class of each of the T frames of the middle view, with its probability.
        by_frame: The probabilities of all classes for these frames, (T, N).
        indices: The numbers of these frames in the video, from 0.
        pixels: The pixels of these frames as the network saw them, (T, H, W, 3) uint8.
    """

    sample_name = "video"
    columns = ("video", "rank", "class", "probability")

    probabilities: Probabilities = field(default_factory=lambda: np.empty(0))
    frames: tuple[Ranked, ...] = ()
    by_frame: Probabilities = field(default_factory=lambda: np.empty((0, 0)))
    indices: tuple[int, ...] = ()
    pixels: Frames = field(default_factory=lambda: np.empty((0, 0, 0, 3), np.uint8))

    def _values(self) -> dict[str, Any]:
        frames = [{"frame": n} | one.to_dict() for n, one in zip(self.indices, self.frames, strict=True)]
        return {"predictions": [one.to_dict() for one in self.top], "frames": frames}


class _Views(NamedTuple):
    """What is looked at of a video: pixels (V, T, 3, H, W) uint8, and the indices of the middle view's frames."""

    pixels: Tensor
    indices: tuple[int, ...]


class VideoPredictor(Predictor):
    """Answers with `Clip`; see `Predictor`."""

    task = "video"
    answer_type = Clip
    _takes = staticmethod(is_video)
    _axes = 4
    sample_name = "video"
    data_spec: ClipSpec

    def __init__(self, opened: "VideoTask | Exported", device: torch.device, optimize: Optimize = "none") -> None:
        super().__init__(opened, device, optimize)
        spec = ClipSpec.from_dict(described(opened))
        assert isinstance(spec, ClipSpec)
        self.data_spec = spec
        self._graph = _by_graph(opened) if isinstance(opened, Exported) else None

    def _example(self) -> Tensor:
        return torch.zeros(1, *self.data_spec.input_size, dtype=torch.float32, device="cpu")  # a frame

    def resize_by(self, interpolation: str) -> None:
        """Resize with another filter from now on; see `Predictor`."""
        try:
            self.data_spec = dataclasses.replace(self.data_spec, interpolation=interpolation)
        except DataError as error:
            raise InferenceError(str(error)) from error

    @torch.no_grad()
    def raw(self, batch: Batch) -> Tensor:
        """Return the logits (B, N) of normalised clips (B, T, C, H, W).

        Of several views of each video, (B, V, T, C, H, W), it is the logarithm of their mean probabilities.
        """
        clips = batch if isinstance(batch, Tensor) else torch.stack(list(batch))
        if clips.dim() == 5:
            return self.clip_and_frames(clips)[0]
        logits, _ = self.clip_and_frames(clips.flatten(0, 1))
        of_views: Tensor = logits.double().softmax(1).unflatten(0, clips.shape[:2])
        return of_views.mean(1).log()

    @torch.no_grad()
    def clip_and_frames(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of normalised clips (B, T, C, H, W), (B, N), and of their frames, (B, T, N)."""
        classify = self._graph or self.computing(len(clips)).classify
        output, frames = classify(clips.to(self.device))
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits, frames

    def _preparation(self, wanted: Wanted) -> Callable[[VideoSource], _Views]:
        return _Prepare(self.data_spec, wanted.clips, wanted.crops)

    def _answers(self, samples: Sequence[_Views], paths: Sequence[str | None], wanted: Wanted) -> Iterator[Clip]:
        for path, views in zip(paths, samples, strict=True):
            logits, frame_logits = self.clip_and_frames(self.data_spec.normalize(views.pixels))
            middle = len(views.pixels) // 2
            probabilities = logits.double().softmax(1).cpu().numpy().mean(0)
            by_frame = frame_logits[middle].double().softmax(1).cpu().numpy()
            if np.isfinite(probabilities).all() and np.isfinite(by_frame).all():
                yield Clip(
                    path,
                    "",
                    ranking(probabilities, self.class_names, wanted.top_k),
                    probabilities,
                    tuple(ranking(of_frame, self.class_names, 1)[0] for of_frame in by_frame),
                    by_frame,
                    views.indices,
                    views.pixels[middle].permute(0, 2, 3, 1).contiguous().numpy(),
                )
            else:
                yield Clip(path, BROKEN)


def _by_graph(exported: Exported) -> Callable[[Tensor], tuple["Tensor | ClipOutput", Tensor]]:
    def classify(clips: Tensor) -> tuple["Tensor | ClipOutput", Tensor]:
        logits, frame_logits = exported.all_outputs(clips)
        return logits, frame_logits

    return classify


@dataclass(frozen=True)
class _Prepare:
    spec: ClipSpec
    clips: int
    crops: int

    def __call__(self, source: VideoSource) -> _Views:
        video = open_video(source)
        chosen = view_indices(video.frames, self.spec.frames, self.clips)
        size, share, filter_ = self.spec.input_size[1:], self.spec.crop_pct, self.spec.interpolation
        pixels = torch.cat(
            [view_crops(video.read(numbers), size, share, self.crops, filter_) for numbers in chosen]
        )
        return _Views(pixels, tuple(chosen[len(pixels) // 2 // self.crops]))


def open_video(source: VideoSource) -> Video:
    """Open a video.

    Args:
        source: A path, frames (T, H, W, 3) or a torch tensor (T, 3, H, W), both uint8, or a video that is open.

    Raises:
        BadVideoError: The file cannot be read.
        InferenceError: An array has another shape or dtype.
    """
    if isinstance(source, str | os.PathLike):
        return VideoFile(source)
    if not isinstance(source, np.ndarray | Tensor):
        return source
    pixels = as_numpy(source).transpose(0, 2, 3, 1) if isinstance(source, Tensor) and source.dim() == 4 else source
    if (
        isinstance(pixels, Tensor)
        or pixels.dtype != np.uint8
        or pixels.ndim != 4
        or pixels.shape[3] != 3
        or not pixels.size
    ):
        shape = "(frames, height, width, 3)" if isinstance(source, np.ndarray) else "(frames, 3, height, width)"
        raise InferenceError(f"a video in memory is uint8 {shape}, got {source.dtype} {tuple(source.shape)}")
    return VideoInMemory(pixels)
