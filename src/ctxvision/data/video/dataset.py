"""Clips as a torch data set whose bad videos become reports instead of exceptions."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ctxvision.data.dataset import BadImage, Sample
from ctxvision.data.error import BadImageError

from .clips import ClipSpec, augment, segment_indices, view_crops, view_indices
from .reading import Video, VideoOpener


class ClipDataset(Dataset[Sample | BadImage]):
    """Reads some frames of each video.

    A sample is a clip (T, 3, H, W); for testing with several views, (V, T, 3, H, W).

    Args:
        samples: (name, class) pairs.
        spec: size, number of frames and normalisation.
        open_video: makes a video of a name.
        seed: of the random frames and crops, drawn per (seed, index); ``None`` for testing. An index may be
            ``epoch · len + index``, see `EpochSampler`.
        flip: whether training mirrors videos.
        crop: whether training crops them.
        clips: spread over each video, for testing.
        crops: of each clip, for testing, 1 or 3.
    """

    def __init__(
        self,
        samples: Sequence[tuple[str, int]],
        spec: ClipSpec,
        open_video: VideoOpener,
        *,
        seed: int | None = None,
        flip: bool = True,
        crop: bool = True,
        clips: int = 1,
        crops: int = 1,
    ) -> None:
        self.samples = samples
        self.spec = spec
        self.open_video = open_video
        self.seed = seed
        self.flip = flip
        self.crop = crop
        self.clips = clips
        self.crops = crops

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample | BadImage:
        name, target = self.samples[index % len(self.samples)]
        try:
            video = self.open_video(name)
            if self.seed is None:
                return Sample(self._views(video), target)
            # of its own: a global generator would depend on what else draws
            mixed = int(np.random.SeedSequence((self.seed, index)).generate_state(1, np.uint64)[0])
            generator = torch.Generator().manual_seed(mixed % 2**63)
            pixels = video.read(segment_indices(video.frames, self.spec.frames, generator))
        except BadImageError as error:
            return BadImage(name, error.reason)
        clip = augment(pixels, self.spec.input_size[1:], generator, flip=self.flip, crop=self.crop)
        return Sample(self.spec.normalize(clip), target)

    def _views(self, video: Video) -> Tensor:
        """Cut what is tested out of a video: (T, 3, H, W), or (V, T, 3, H, W) of several views."""
        size = self.spec.input_size[1:]
        views = [
            view_crops(video.read(indices), size, self.spec.crop_pct, self.crops)
            for indices in view_indices(video.frames, self.spec.frames, self.clips)
        ]
        clips = self.spec.normalize(torch.cat(views))
        return clips if len(clips) > 1 else clips[0]
