"""The objects on images."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ctxvision.data import DetectionSpec
from ctxvision.tasks import Task, TaskError

from .answer import BROKEN, Answer, InferenceError
from .exported import Exported
from .predictor import Batch, Predictor, Prepare, Source, Wanted, described
from .preparing import Optimize

OUTPUTS = ("boxes", "labels", "scores", "masks")


@dataclass(frozen=True)
class FoundObject:
    """An object on an image.

    Attributes:
        name: The name of its class.
        label: The number of its class, from 1.
        score: The certainty of the network, from 0 to 1.
        bbox: Its box as (x, y, width, height) in pixels.
        area: The area of its box or, of a detector with masks, of its mask, in pixels.
        segmentation: Its mask as COCO's compressed run-length code, which ``pycocotools.mask.decode`` reads;
            ``None`` for a detector without masks.
    """

    name: str
    label: int
    score: float
    bbox: tuple[float, float, float, float]
    area: float
    segmentation: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the object as plain values for JSON."""
        values = {"class": self.name, "label": self.label, "bbox": list(self.bbox), "score": self.score}
        mask = {"segmentation": self.segmentation} if self.segmentation else {}
        return values | {"area": self.area} | mask


@dataclass(frozen=True, eq=False)
class Objects(Answer):
    """What a detector says about an image.

    Attributes:
        width: The width of the image in pixels.
        height: The height of the image in pixels.
        objects: The objects, the most certain first.
    """

    columns = ("image", "class", "score", "x", "y", "width", "height")

    width: int = 0
    height: int = 0
    objects: tuple[FoundObject, ...] = ()

    def _values(self) -> dict[str, Any]:
        found = [one.to_dict() for one in self.objects]
        return {"width": self.width, "height": self.height, "objects": found}

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"class": one.name, "score": f"{one.score:.6f}"}
            | dict(zip(self.columns[3:], (round(value, 2) for value in one.bbox), strict=True))
            for one in self.objects
        ]

    def _line(self) -> str:
        return ", ".join(f"{one.name} {one.score:.0%}" for one in self.objects) or "nothing"


class DetectionPredictor(Predictor):
    """Answers with `Objects`; see `Predictor`."""

    task = "detection"
    answer_type = Objects
    data_spec: DetectionSpec
    _part = "model.network.backbone"

    def __init__(self, opened: Task | Exported, device: torch.device, optimize: Optimize = "none") -> None:
        super().__init__(opened, device, optimize)
        self.data_spec = DetectionSpec.from_dict(described(opened))
        if isinstance(opened, Exported):
            self.has_masks = bool(opened.metadata.settings["masks"])
            self._graph = exported_detector(opened)
        else:
            self.has_masks = bool(opened.model.has_masks)

    def _example(self) -> Tensor:
        return torch.zeros(1, self.data_spec.in_chans, 128, 128, dtype=torch.float32, device="cpu")

    def resize_by(self, interpolation: str) -> None:
        """Resize with another filter from now on; see `Predictor`."""
        try:
            if self.exported:
                self._compute = exported_detector(self.exported, interpolation)
            elif self.module is not None:
                self.module.model.resize_by(interpolation)  # type: ignore[operator]
        except TaskError as error:
            raise InferenceError(str(error)) from error

    @torch.no_grad()
    def raw(self, batch: Batch) -> list[dict[str, Tensor]]:
        """Return what is found on images (C, H, W) of any sizes, uint8 or floats from 0 to 1.

        Returns:
            For each image ``boxes`` (n, 4) as x0, y0, x1, y1 in pixels, ``labels`` (n,) from 1, ``scores`` (n,)
            and, of a detector with masks, ``masks`` (n, 1, H, W), probabilities; the most certain first.
        """
        images = [image.to(self.device) for image in batch]
        if not images:
            return []
        compute: Callable[[list[Tensor]], list[dict[str, Tensor]]]
        compute = self._graph if self.exported else self.computing(len(images))
        return compute([image.float() / 255 if image.dtype == torch.uint8 else image for image in images])

    def _preparation(self, wanted: Wanted) -> Callable[[Source], Tensor]:
        return Prepare(to_uint8, self.data_spec.color_mode)

    def _answers(
        self, samples: Sequence[Tensor], paths: Sequence[str | None], wanted: Wanted
    ) -> Iterator[Objects]:
        from ctxvision.tasks.detection.metric import detections_to_rows

        for path, image, found in zip(paths, samples, self.raw(samples), strict=True):
            rows = [
                row for row in detections_to_rows(found, masks=self.has_masks) if row["score"] >= wanted.threshold
            ]
            if all(math.isfinite(value) for row in rows for value in (row["score"], *row["bbox"])):
                height, width = image.shape[-2:]
                yield Objects(path, "", width, height, tuple(self._found(row) for row in rows))
            else:
                yield Objects(path, BROKEN)

    def _found(self, row: dict[str, Any]) -> FoundObject:
        label, box = row["label"], tuple(row["bbox"])
        name = self.class_names[label - 1]
        return FoundObject(name, label, row["score"], box, row["area"], row.get("segmentation"))


def to_uint8(picture: Image.Image) -> Tensor:
    """Return the pixels of an image in mode RGB or L, (C, H, W) uint8."""
    pixels = torch.from_numpy(np.array(picture))
    return (pixels.unsqueeze(-1) if pixels.dim() == 2 else pixels).permute(2, 0, 1).contiguous()


def describe(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a row of `detections_to_rows`, or of a data set's truth, with the name of its class first."""
    return {"class": names[row["label"] - 1], **row}


def as_input(picture: Image.Image) -> Tensor:
    """Return what a detector takes of an image in mode RGB or L, (C, H, W) from 0 to 1."""
    return to_uint8(picture).float() / 255


def exported_detector(
    exported: Exported, interpolation: str | None = None
) -> Callable[[Sequence[Tensor]], list[dict[str, Tensor]]]:
    """Return what finds objects on images (C, H, W) from 0 to 1 as the trained detector does, by its graph.

    Images are resized, normalised and padded before the graph, and boxes and masks brought back to their sizes
    after it, by torchvision's own transform.

    Args:
        exported: The exported file of a detector.
        interpolation: The filter of the resize; by default that of the trained detector.

    Raises:
        KeyError: Its settings are incomplete.
    """
    from ctxvision.tasks.detection.regions import make_transform

    s = exported.metadata.settings
    filter_ = interpolation or s.get("interpolation", "bilinear")  # files of earlier versions do not say it
    transform = make_transform(s["min_size"], s["max_size"], s["mean"], s["std"], filter_).eval()

    def detect(images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        found: list[dict[str, Tensor]] = []
        for image in images:
            prepared, _ = transform([image])
            size = prepared.image_sizes[0]
            outputs = exported.run(prepared.tensors, torch.tensor(size, device="cpu"))
            one = dict(zip(OUTPUTS, outputs, strict=False))
            found += transform.postprocess([one], [size], [tuple(image.shape[-2:])])
        return found

    return detect
