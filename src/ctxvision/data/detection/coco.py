"""Pictures with boxes and masks as COCO's annotation files list them."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxvision.data.labelled import Opener, as_path

# polygons as lists of x, y, x, y, …; or a run-length code {"size": [h, w], "counts": …}
Segmentation: TypeAlias = "list[list[float]] | dict[str, Any] | None"
ImageId: TypeAlias = int | str


class CocoImage(NamedTuple):
    """An image as an annotation file lists it; ``name`` is what its set's ``open_image`` takes."""

    id: ImageId
    name: str
    height: int
    width: int


class Annotation(NamedTuple):
    """An object on an image.

    ``label`` counts from 1; ``box`` is ``x0, y0, x1, y1`` in pixels, as the file has it; by ``area`` (pixels) the
    metric sorts objects into small, medium and large; a ``crowd`` is a region of objects that nobody counted.
    """

    label: int
    box: tuple[float, float, float, float]
    area: float
    crowd: bool
    segmentation: Segmentation


class PackedAnnotations:
    """The annotations of many images in two arrays, which worker processes share without copying them.

    A list of a million Python objects would be copied into every worker, page by page, as its reference counts
    change.

    Args:
        of_images: The annotations of each image.
    """

    def __init__(self, of_images: Iterable[Sequence[Annotation]]) -> None:
        texts = [json.dumps(list(annotations)).encode() for annotations in of_images]
        self._ends = np.cumsum([0, *map(len, texts)])
        self._bytes: NDArray[np.uint8] = np.frombuffer(b"".join(texts), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> list[Annotation]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        text = self._bytes[self._ends[index] : self._ends[index + 1]].tobytes()
        return [
            Annotation(label, (box[0], box[1], box[2], box[3]), area, crowd, segmentation)
            for label, box, area, crowd, segmentation in json.loads(text)
        ]


@dataclass
class CocoSet:
    """One part of a data set: its images and what is on them.

    Attributes:
        class_names: The name of each class, in the order of the labels 1, 2, ….
        category_ids: The id of each class in the annotation file; ids may have gaps.
        images: The images, in the order of the annotation file.
        annotations: The annotations of each image.
        notes: The faults of the file, and what else a reader should know, one line each.
        open_image: The function that makes of a name what `read_image` reads; it travels to the workers.
        fingerprint: A digest of the names of the images, where they were split here.
        turned: Whether images are turned by an EXIF orientation of which their listed size does not tell.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: list[CocoImage]
    annotations: PackedAnnotations
    notes: list[str] = field(default_factory=list)
    open_image: Opener = as_path
    fingerprint: str = ""
    turned: bool = True

    def __len__(self) -> int:
        return len(self.images)

    def choose(self, keep: Callable[[int, CocoImage], bool]) -> "CocoSet":
        """Return the images for which ``keep(index, image)`` is true."""
        chosen = [index for index, image in enumerate(self.images) if keep(index, image)]
        return replace(
            self,
            images=[self.images[index] for index in chosen],
            annotations=PackedAnnotations(self.annotations[index] for index in chosen),
        )

    def counts(self) -> list[int]:
        """Return the number of objects of every class, crowds left out."""
        counts = [0] * len(self.class_names)
        for index in range(len(self)):
            for annotation in self.annotations[index]:
                counts[annotation.label - 1] += not annotation.crowd
        return counts

    def crowds(self) -> int:
        """Return the number of crowds, which nothing is trained on."""
        return sum(a.crowd for index in range(len(self)) for a in self.annotations[index])
