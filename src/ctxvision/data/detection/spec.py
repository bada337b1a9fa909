"""What a detector must know about the images that it was trained on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ctxvision.data.error import DataError


@dataclass(frozen=True)
class DetectionSpec:
    """Classes and how the images were split; travels inside every checkpoint as plain Python values.

    Attributes:
        class_names: of the labels 1, 2, ….
        category_ids: of the same classes in the annotation file; results are written with these.
        in_chans: 3 for RGB, 1 for grey.
        val_fraction: share of the images held out, where one annotation file was split.
        split_seed: seed of that split.
        fingerprint: of the names of the images that were split, so that ``evaluate`` holds out the same.
        train_counts: number of training objects of every class; empty where it was not noted.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    in_chans: int = 3
    val_fraction: float = 0.2
    split_seed: int = 0
    fingerprint: str = ""
    train_counts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("class_names", "category_ids", "train_counts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.class_names or len(self.category_ids) != len(self.class_names):
            raise DataError(f"{len(self.class_names)} classes need as many category ids, got {self.category_ids}")
        if self.in_chans not in (1, 3):
            raise DataError(f"images must have 1 or 3 channels, got {self.in_chans}")

    @property
    def color_mode(self) -> str:
        """PIL's mode with as many channels: ``"L"`` or ``"RGB"``."""
        return "L" if self.in_chans == 1 else "RGB"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as lists, strings and numbers only."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DetectionSpec":
        """Rebuild from `to_dict`; raises `DataError` on anything else."""
        try:
            return cls(**values)
        except TypeError as error:
            raise DataError(f"not a data specification: {error}") from error
