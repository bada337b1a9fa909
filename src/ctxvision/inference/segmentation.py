"""The classes of the pixels of images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctxvision.data import SegmentationSpec
from ctxvision.tasks import Task

from .answer import BROKEN, Answer, InferenceError
from .exported import Exported
from .predictor import Batch, Predictor, Prepare, Source, Wanted, described
from .preparing import Optimize


class ClassShare(NamedTuple):
    """A class on an image, the share of the pixels that it has, and the mean confidence in them."""

    name: str
    share: float
    confidence: float


@dataclass(frozen=True, eq=False)
class Pixels(Answer):
    """What a segmentation network says about an image.

    Attributes:
        classes: The most probable class of every pixel, (H, W) int64.
        confidence: The probability of that class, (H, W) float32.
        shares: The classes that occur, the one with the most pixels first.
    """

    columns = ("image", "class", "share", "confidence")

    classes: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 0), np.int64))
    confidence: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    shares: tuple[ClassShare, ...] = ()

    def _values(self) -> dict[str, Any]:
        height, width = self.classes.shape
        classes = [{"class": one.name, "share": one.share, "confidence": one.confidence} for one in self.shares]
        return {"width": width, "height": height, "classes": classes}

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"class": one.name, "share": f"{one.share:.6f}", "confidence": f"{one.confidence:.6f}"}
            for one in self.shares
        ]

    def _line(self) -> str:
        return ", ".join(f"{one.name} {one.share:.1%}" for one in self.shares)


class SegmentationPredictor(Predictor):
    """Answers with `Pixels`; see `Predictor`."""

    task = "segmentation"
    answer_type = Pixels
    data_spec: SegmentationSpec

    def __init__(self, opened: Task | Exported, device: torch.device, optimize: Optimize = "none") -> None:
        super().__init__(opened, device, optimize)
        self.data_spec = SegmentationSpec.from_dict(described(opened))
        if isinstance(opened, Exported):
            self._graph = exported_segmenter(opened)

    def _example(self) -> Tensor:
        return torch.zeros(1, *self.data_spec.input_size, dtype=torch.float32, device="cpu")

    def resize_by(self, interpolation: str) -> None:
        """Raise `InferenceError`: images are answered about in their own sizes."""
        raise InferenceError("a segmentation network takes images in their own sizes; leave out the interpolation")

    @torch.no_grad()
    def raw(self, batch: Batch) -> list[Tensor]:
        """Return the logits (N, H, W) of each of some normalised images (C, H, W) of any sizes, as float32."""
        compute: Callable[[Tensor], Tensor] = self._graph if self.exported else self.computing(len(batch))
        return [compute(image[None].to(self.device))[0].float() for image in batch]

    def _preparation(self, wanted: Wanted) -> Callable[[Source], Tensor]:
        return Prepare(self.data_spec.eval_transform(), self.data_spec.color_mode)

    def _answers(self, samples: Sequence[Tensor], paths: Sequence[str | None], wanted: Wanted) -> Iterator[Pixels]:
        for path, image in zip(paths, samples, strict=True):
            (logits,) = self.raw([image])
            confidence, classes = (values.cpu() for values in logits.softmax(0).max(0))
            if confidence.isfinite().all():
                shares = self._shares(classes, confidence)
                yield Pixels(path, "", classes.numpy(), confidence.numpy(), shares)
            else:
                yield Pixels(path, BROKEN)

    def _shares(self, classes: Tensor, confidence: Tensor) -> tuple[ClassShare, ...]:
        shares = []
        for index, name in enumerate(self.class_names):
            here = classes == index
            if here.any():
                shares.append(ClassShare(name, here.float().mean().item(), confidence[here].mean().item()))
        return tuple(sorted(shares, key=lambda one: -one.share))


def exported_segmenter(exported: Exported) -> Callable[[Tensor], Tensor]:
    """Return what computes logits (B, N, H, W) of images (B, C, H, W) as the trained network does, by its graph.

    The graph sees an image at once, or through the window that slides over it if the trained task has one.

    Args:
        exported: The exported file of a segmentation network.

    Raises:
        KeyError: Its settings are incomplete.
    """
    from ctxvision.tasks.segmentation import image_logits

    pairs = (exported.metadata.settings["window"], exported.metadata.settings["stride"])
    window, stride = (None if pair is None else (pair[0], pair[1]) for pair in pairs)
    return lambda images: image_logits(exported, images, window=window, stride=stride)
