"""What a detector must know about the images that it was trained on."""

from dataclasses import KW_ONLY, dataclass

from ctxvision.data.error import DataError
from ctxvision.data.spec import Spec


@dataclass(frozen=True)
class DetectionSpec(Spec):
    """The classes of a detector and how its images were split; class number ``i`` has the label ``i + 1``.

    Attributes:
        category_ids: The ids of the classes in the annotation file; results are written with these.
        in_chans: The number of channels of an image: 3 for RGB, 1 for grey.
        train_counts: The number of training objects of each class; empty where it was not noted.
    """

    category_ids: tuple[int, ...]
    _: KW_ONLY
    in_chans: int = 3
    train_counts: tuple[int, ...] = ()

    def validate(self) -> None:
        """Check that each class has an id, and that images have 1 or 3 channels."""
        if not self.class_names or len(self.category_ids) != len(self.class_names):
            raise DataError(f"{len(self.class_names)} classes need as many category ids, got {self.category_ids}")
        if self.in_chans not in (1, 3):
            raise DataError(f"images must have 1 or 3 channels, got {self.in_chans}")

    @property
    def channels(self) -> int:
        """The number of channels of an image: 3 for RGB, 1 for grey."""
        return self.in_chans
