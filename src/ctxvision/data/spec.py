"""What every network must know about the data that it was trained on: one description, plain Python values."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode

from .error import DataError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
"""The filters of a resize that a user may choose among, by PIL's names in lower case."""

SpecType = TypeVar("SpecType", bound="Spec")


@dataclass(frozen=True)
class Spec(ABC):
    """The description of a data set that travels inside every checkpoint, as `to_dict` writes it.

    Sequences may be given as lists, as they come from a file; they are kept as tuples.

    Attributes:
        class_names: The name of each class, in the order of the network's outputs.
        val_fraction: The share of the samples that was held out, where the data had no validation part.
        split_seed: The seed that chose which samples were held out.
        fingerprint: A digest of the names of the samples that were split, by which an evaluation can tell whether
            it holds out the same ones; empty where the data came in two parts.

    Raises:
        DataError: The values contradict each other.
    """

    class_names: tuple[str, ...]
    _: KW_ONLY
    val_fraction: float = 0.2
    split_seed: int = 0
    fingerprint: str = ""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        self.validate()

    @abstractmethod
    def validate(self) -> None:
        """Raise `DataError` if the values contradict each other."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """The number of channels of an image: 3 for RGB, 1 for grey."""

    @property
    def color_mode(self) -> str:
        """PIL's name of an image mode with as many channels: ``"L"`` or ``"RGB"``."""
        return "L" if self.channels == 1 else "RGB"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as lists, strings and numbers only."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls: type[SpecType], values: Mapping[str, Any]) -> SpecType:
        """Rebuild a description from what `to_dict` returned.

        Args:
            values: The fields by name.

        Raises:
            DataError: A field is missing, unknown, or contradicts another.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise DataError(f"not a data specification: {error}") from error


@dataclass(frozen=True)
class ImageSpec(Spec):
    """The description of data whose images reach the network in one size and normalised.

    Attributes:
        input_size: The channels, height and width of the network's input, ``(C, H, W)``; C is 1 or 3.
        mean: The mean of each channel, for pixels in [0, 1].
        std: The standard deviation of each channel, for pixels in [0, 1].
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def validate(self) -> None:
        """Check the input size, the mean and the standard deviation, and then `validate_classes`."""
        channels = self.input_size[0]
        if len(self.input_size) != 3 or channels not in (1, 3) or min(self.input_size) < 1:
            raise DataError(f"input size must be (1 or 3, height, width), got {self.input_size}")
        if len(self.mean) != channels or len(self.std) != channels:
            raise DataError(f"{channels} channels need as many means and deviations, got {self.mean}, {self.std}")
        self.validate_classes()

    @abstractmethod
    def validate_classes(self) -> None:
        """Raise `DataError` if the classes, or what belongs to them, contradict each other."""

    @property
    def channels(self) -> int:
        """The number of channels of an image: 3 for RGB, 1 for grey."""
        return self.input_size[0]

    def normalize(self, pixels: Tensor) -> Tensor:
        """Turn pixels (..., C, H, W) from 0 to 255 into the float32 values that the network takes."""
        mean, std = self._normalization()
        return (pixels.float() / 255 - mean) / std

    def pixels(self, values: Tensor) -> Tensor:
        """Undo `normalize`: from values (..., C, H, W) on the CPU to pixels uint8 from 0 to 255."""
        mean, std = self._normalization()
        return (values.float() * std + mean).clamp(0, 1).mul(255).round().byte()

    def _normalization(self) -> tuple[Tensor, ...]:
        return tuple(
            torch.tensor(v, dtype=torch.float32, device="cpu").view(-1, 1, 1) for v in (self.mean, self.std)
        )


def filter_for_tensors(interpolation: str) -> InterpolationMode:
    """Return torchvision's name of a filter for tensors, which have the first three of `Interpolation`.

    Raises:
        DataError: Tensors are not resized with this filter.
    """
    known = {mode.value: mode for mode in (InterpolationMode.NEAREST, *_SMOOTH)}
    if interpolation not in known:
        raise DataError(f"interpolation must be {', '.join(known)} here, got {interpolation!r}")
    return known[interpolation]


_SMOOTH = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
