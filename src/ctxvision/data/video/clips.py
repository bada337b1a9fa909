"""Which frames of a video make a clip, and which part of the pictures: for training, validation and testing."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor

from ctxvision.data.error import DataError
from ctxvision.data.images.data import DataSpec
from ctxvision.data.spec import filter_for_tensors

from .reading import Frames

_SCALES = (1.0, 0.875, 0.75, 0.66)  # of TSN's multi-scale crops


@dataclass(frozen=True)
class ClipSpec(DataSpec):
    """The classes, the input size and the normalisation of videos that have one class each.

    Attributes:
        frames: The number of frames of a clip; one comes from each of as many equal parts of the video.
    """

    _: KW_ONLY
    interpolation: str = "bilinear"
    frames: int = 8

    def validate_classes(self) -> None:
        """Check the classes as `DataSpec` does, the filter, the number of frames and that they are in colour."""
        super().validate_classes()
        filter_for_tensors(self.interpolation)
        if self.frames < 1:
            raise DataError(f"a clip needs at least one frame, got {self.frames}")
        if self.channels != 3:
            raise DataError(f"clips have 3 channels, got {self.channels}")


def segment_indices(length: int, frames: int, generator: torch.Generator | None = None) -> list[int]:
    """Choose one frame in each of ``frames`` equal parts of a video: by chance, or the one in the middle.

    A video with fewer frames than parts repeats some, in order: part ``i`` begins at ``i · length / frames``
    wherever that is (L. Wang et al., Temporal Segment Networks, 2016).

    Args:
        length: The number of frames of the video, at least 1.
        frames: The number of frames to choose.
        generator: The generator that chooses a frame of each part by chance; ``None`` takes the one in the middle.

    Examples:
        >>> segment_indices(20, 4), segment_indices(3, 4)
        ([2, 7, 12, 17], [0, 1, 1, 2])
    """
    if generator is None:
        where = np.full(frames, 0.5)
    else:
        where = torch.rand(frames, generator=generator, dtype=torch.float64, device="cpu").numpy()
    return _places(length, frames, where)


def view_indices(length: int, frames: int, clips: int) -> list[list[int]]:
    """Choose several clips that are spread evenly over a video; one is that of `segment_indices`.

    Clip ``k`` has the frame at the share ``(k + 1/2) / clips`` of each part.
    """
    return [_places(length, frames, np.full(frames, (k + 0.5) / clips)) for k in range(clips)]


def _places(length: int, frames: int, where: np.ndarray) -> list[int]:
    places: list[int] = np.minimum((np.arange(frames) + where) * length // frames, length - 1).astype(int).tolist()
    return places


def augment(
    pixels: Frames,
    size: Sequence[int],
    generator: torch.Generator,
    *,
    flip: bool,
    crop: bool,
    interpolation: str = "bilinear",
) -> Tensor:
    """Cut the same random part out of all frames, and perhaps mirror them, as TSN does.

    Height and width of the part are each a share of 1, 0.875, 0.75 or 0.66 of the short side, at most one step
    apart; it lies at one of 13 places: corners, middles, the centre, and half-way between.

    Args:
        pixels: The frames, (T, H, W, 3) uint8.
        size: The height and width of the result in pixels.
        generator: The generator of the random numbers.
        flip: Whether half of the clips are mirrored left and right; they must not be where a class is a direction.
        crop: Whether a random part is cut out; otherwise the centre is.
        interpolation: The filter of the resize, see `filter_for_tensors`.

    Returns:
        The clip, (T, 3, height, width) uint8.
    """
    clip = _as_tensor(pixels)
    height, width = clip.shape[-2:]
    draw = torch.rand(4, generator=generator, dtype=torch.float32, device="cpu").tolist()
    if crop:
        pairs = [(a, b) for i, a in enumerate(_SCALES) for j, b in enumerate(_SCALES) if abs(i - j) <= 1]
        share_h, share_w = pairs[int(draw[0] * len(pairs))]
        short = min(height, width)
        h, w = max(round(short * share_h), 1), max(round(short * share_w), 1)
        down, right = _PLACES[int(draw[1] * len(_PLACES))]
        top, left = round((height - h) * down), round((width - w) * right)
        clip = TF.resized_crop(
            clip, top, left, h, w, list(size), filter_for_tensors(interpolation), antialias=True
        )
    else:
        clip = _centre(clip, size, 1.0, interpolation)
    return TF.horizontal_flip(clip) if flip and draw[2] < 0.5 else clip


# (down, right) as shares of the room that is left: 4 corners, centre, 4 middles, 4 half-way
_PLACES = tuple((y / 4, x / 4) for y in (0, 2, 4) for x in (0, 2, 4)) + tuple(
    (y / 4, x / 4) for y in (1, 3) for x in (1, 3)
)


def view_crops(
    pixels: Frames, size: Sequence[int], crop_pct: float, crops: int, interpolation: str = "bilinear"
) -> Tensor:
    """Cut the centre out of all frames, or three parts along the long side.

    Args:
        pixels: The frames, (T, H, W, 3) uint8.
        size: The height and width of the result in pixels.
        crop_pct: The share of a picture that a crop keeps: pictures are resized to ``size / crop_pct`` before.
        crops: The number of parts, 1 or 3.
        interpolation: The filter of the resize, see `filter_for_tensors`.

    Returns:
        The parts, (crops, T, 3, height, width) uint8.
    """
    clip = _as_tensor(pixels)
    if crops == 1:
        return _centre(clip, size, crop_pct, interpolation).unsqueeze(0)
    clip = _resize(clip, size, crop_pct, interpolation)
    room_y, room_x = clip.shape[-2] - size[0], clip.shape[-1] - size[1]
    along = [(0.5, s) for s in (0.0, 0.5, 1.0)] if room_x >= room_y else [(s, 0.5) for s in (0.0, 0.5, 1.0)]
    return torch.stack([TF.crop(clip, round(room_y * y), round(room_x * x), *size) for y, x in along])


def _centre(clip: Tensor, size: Sequence[int], crop_pct: float, interpolation: str) -> Tensor:
    centre: Tensor = TF.center_crop(_resize(clip, size, crop_pct, interpolation), list(size))
    return centre


def _resize(clip: Tensor, size: Sequence[int], crop_pct: float, interpolation: str) -> Tensor:
    """Resize, keeping the shape, so that a crop of ``size`` is the share ``crop_pct`` of what just covers it."""
    height, width = clip.shape[-2:]
    scale = max(size[0] / height, size[1] / width) / crop_pct
    wanted = [max(round(height * scale), size[0]), max(round(width * scale), size[1])]
    if wanted == [height, width]:
        return clip
    resized: Tensor = TF.resize(clip, wanted, filter_for_tensors(interpolation), antialias=True)
    return resized


def _as_tensor(pixels: Frames) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
