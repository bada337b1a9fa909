"""Videos with one class each, of any source, as a LightningDataModule."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from ctxvision.data.dataset import BadImage, LoadedSample, SizedDataset
from ctxvision.data.error import BadImageError, DataError
from ctxvision.data.labelled import SplitRule, require_two_classes
from ctxvision.data.module import DataModule, EvalSplit, Loading

from .clips import ClipSpec, augment, segment_indices, view_crops, view_indices
from .reading import Video, VideoOpener
from .source import find_videos

if TYPE_CHECKING:
    from typing import Unpack


class VideoData(DataModule):
    """Folders, tables or the embedded clips, with a validation part or split reproducibly; see `find_videos`.

    A batch is clips (B, T, 3, H, W), or several views of each video (B, V, T, 3, H, W), and classes (B,). Training
    takes a random frame from each of ``frames`` equal parts of a video and the same random crop of all, validation
    the frame in the middle of each part and the centre. Videos with too few frames show some of them several times
    (`segment_indices`). See `DataModule` for bad videos, for the order of an epoch, and for the attributes.

    Args:
        source: A folder, a ``.csv`` or ``.tsv`` file, or ``moving-digits``.
        image_size: The height and width of the network's input in pixels; by default 224, and that of the embedded
            clips.
        frames: The number of frames of a clip.
        interpolation: The filter of every resize: nearest, bilinear or bicubic.
        flip: Whether half of the training videos are mirrored; by default they are, unless the classes are
            directions as those of the embedded clips are.
        crop: Whether random parts are cut out in training; by default they are, unless the classes are directions.
        test_clips: The number of clips spread over each video that is evaluated; their probabilities are averaged.
        test_crops: The number of parts cut out of each of these clips: 1, the centre, or 3 along the long side.
        class_names: The classes in the order of a run that is resumed; by default in the order of the source.
        spec: The description of a trained network's data, whose classes, input size, frames, normalisation and
            split replace those above.
        eval_split: The part that ``val_dataloader`` reads.
        loading: The arguments of `DataModule`: ``batch_size`` (by default 16), ``seed``, ``workers``, ``prefetch``
            (by default 4), ``strict``, ``val_fraction`` and ``split_seed``.

    Raises:
        DataError: The source cannot be used, or has classes that the network lacks.
    """

    task = "video"
    sample_name = "video"
    spec_class = ClipSpec
    spec: ClipSpec

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        image_size: int | None = None,
        frames: int = 8,
        interpolation: str = "bilinear",
        flip: bool | None = None,
        crop: bool | None = None,
        test_clips: int = 1,
        test_crops: int = 1,
        class_names: Sequence[str] | None = None,
        spec: ClipSpec | None = None,
        eval_split: EvalSplit = "val",
        **loading: "Unpack[Loading]",
    ) -> None:
        super().__init__(source, **loading)
        if test_clips < 1 or test_crops not in (1, 3):
            raise DataError(f"tests take 1 or more clips and 1 or 3 crops, got {test_clips} and {test_crops}")
        rule = SplitRule.of(spec, self.val_fraction, self.split_seed, class_names)
        found = find_videos(source, split=rule, strict=self.strict, frames=spec.frames if spec else frames)
        videos, size = found.videos, image_size or found.image_size or 224
        if spec is None:
            require_two_classes(source, videos.class_names)
        self.spec = spec or ClipSpec(
            class_names=videos.class_names,
            input_size=(3, size, size),
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
            interpolation=interpolation,
            crop_pct=1.0 if found.image_size else 0.875,
            val_fraction=self.val_fraction,
            split_seed=self.split_seed,
            fingerprint=videos.fingerprint,
            train_counts=videos.train_counts,
            frames=frames,
        )
        self.root, self.fingerprint, self.notes = videos.root, videos.fingerprint, videos.notes
        self.train_samples = videos.train
        self.train_size = len(videos.train)
        self.eval_samples = self.choose_split(videos.train, videos.val, eval_split)
        self.open_video = found.open_video
        self._flip = found.flip if flip is None else flip
        self._crop = found.crop if crop is None else crop
        self._test_clips, self._test_crops = test_clips, test_crops

    def train_dataset(self) -> "ClipDataset":
        """Return the training videos, augmented."""
        return ClipDataset(
            self.train_samples, self.spec, self.open_video, seed=self.seed, flip=self._flip, crop=self._crop
        )

    def eval_dataset(self) -> "ClipDataset":
        """Return the videos of the split that is evaluated, in order, as the network is tested."""
        return ClipDataset(
            self.eval_samples, self.spec, self.open_video, clips=self._test_clips, crops=self._test_crops
        )


class ClipDataset(SizedDataset[LoadedSample | BadImage]):
    """Reads some frames of each video.

    A sample is a clip (T, 3, H, W); for testing with several views, (V, T, 3, H, W).

    Args:
        samples: The (name, class) pairs.
        spec: The size, the number of frames and the normalisation.
        open_video: The function that makes a video of a name.
        seed: The seed of the random frames and crops, which are drawn per (seed, index); ``None`` is for testing.
            An index may be ``epoch · len + index``, see `EpochSampler`.
        flip: Whether training mirrors videos.
        crop: Whether training cuts a random part out of videos.
        clips: The number of clips spread over each video, for testing.
        crops: The number of parts cut out of each clip, 1 or 3, for testing.
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

    def __getitem__(self, index: int) -> LoadedSample | BadImage:
        name, target = self.samples[index % len(self.samples)]
        try:
            video = self.open_video(name)
            if self.seed is None:
                return LoadedSample(self._views(video), target)
            # of its own: a global generator would depend on what else draws
            mixed = int(np.random.SeedSequence((self.seed, index)).generate_state(1, np.uint64)[0])
            generator = torch.Generator().manual_seed(mixed % 2**63)
            pixels = video.read(segment_indices(video.frames, self.spec.frames, generator))
        except BadImageError as error:
            return BadImage(name, error.reason)
        size, filter_ = self.spec.input_size[1:], self.spec.interpolation
        clip = augment(pixels, size, generator, flip=self.flip, crop=self.crop, interpolation=filter_)
        return LoadedSample(self.spec.normalize(clip), target)

    def _views(self, video: Video) -> Tensor:
        """Cut what is tested out of a video: (T, 3, H, W), or (V, T, 3, H, W) of several views."""
        size = self.spec.input_size[1:]
        views = [
            view_crops(video.read(indices), size, self.spec.crop_pct, self.crops, self.spec.interpolation)
            for indices in view_indices(video.frames, self.spec.frames, self.clips)
        ]
        clips = self.spec.normalize(torch.cat(views))
        return clips if len(clips) > 1 else clips[0]
