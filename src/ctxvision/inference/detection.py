"""What a detector finds on images: data first, then the same as a picture."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ctxvision.data import BadImageError, read_image
from ctxvision.foreign import visible
from ctxvision.plots.fonts import font_for
from ctxvision.plots.palette import OKABE_ITO
from ctxvision.tasks.detection import DetectionTask
from ctxvision.tasks.detection.results import detections_to_rows

_SHOWN_SIDE = 320  # smaller images are enlarged to at least this, so that labels can be read
_FONT = 13
_VEIL = 0.45  # how much of a mask's pixels is colour


@dataclass(frozen=True)
class ImageDetections:
    """The objects found on an image, the most certain first.

    Attributes:
        path: of the image.
        width: in pixels.
        height: in pixels.
        objects: plain values: ``class``, ``label`` (from 1), ``score``, ``bbox`` (x, y, width, height, in pixels),
            ``area`` and, of a detector with masks, ``segmentation``, COCO's compressed run-length code.
        error: why there are none: the image could not be read; else empty.
    """

    path: str
    width: int
    height: int
    objects: list[dict[str, Any]]
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return what a JSON file holds."""
        if self.error:
            return {"path": self.path, "error": self.error}
        return {"path": self.path, "width": self.width, "height": self.height, "objects": self.objects}


def detect(
    task: DetectionTask,
    paths: Sequence[str | os.PathLike[str]],
    *,
    threshold: float = 0.5,
    batch_size: int = 1,
    strict: bool = False,
) -> Iterator[ImageDetections]:
    """Find objects on image files, in their order.

    Args:
        task: in evaluation mode, on the device to use.
        paths: image files.
        threshold: objects with a lower score are left out.
        batch_size: images at a time.
        strict: raise where an image cannot be read, instead of returning the reason.

    Raises:
        BadImageError: see ``strict``.
    """
    names = list(task.data_spec["class_names"])
    mode = "L" if task.data_spec.get("in_chans", 3) == 1 else "RGB"
    for start in range(0, len(paths), batch_size):
        part = [os.fspath(path) for path in paths[start : start + batch_size]]
        pictures: dict[str, Image.Image] = {}
        errors: dict[str, str] = {}
        for path in part:
            try:
                pictures[path] = read_image(path, mode)
            except BadImageError as error:
                if strict:
                    raise
                errors[path] = error.reason
        found = dict(zip(pictures, _find(task, list(pictures.values())), strict=True))
        for path in part:
            if path in errors:
                yield ImageDetections(path, 0, 0, [], errors[path])
                continue
            objects = [describe(row, names) for row in found[path] if row["score"] >= threshold]
            yield ImageDetections(path, *pictures[path].size, objects)


def describe(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a row of `detections_to_rows`, or of a data set's truth, with the name of its class first."""
    return {"class": names[row["label"] - 1], **row}


def _find(task: DetectionTask, pictures: Sequence[Image.Image]) -> list[list[dict[str, Any]]]:
    if not pictures:
        return []
    with torch.inference_mode():
        found = task([as_input(picture).to(task.device) for picture in pictures])
        return [detections_to_rows(of_image, masks=task.model.has_masks) for of_image in found]


def as_input(picture: Image.Image) -> torch.Tensor:
    """Turn an image into what a detector takes, (C, H, W) from 0 to 1."""
    pixels = torch.from_numpy(np.array(picture))
    return (pixels.unsqueeze(-1) if pixels.dim() == 2 else pixels).permute(2, 0, 1).float() / 255


def draw(picture: Image.Image, objects: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Draw boxes with their classes and scores, and masks, on an image.

    Colours repeat after seven classes; the names tell them apart. Small images are enlarged, pixel by pixel.

    Args:
        picture: of any mode; left as it is.
        objects: as in `ImageDetections`; the truth has no ``score``.
    """
    scale = max(1, -(-_SHOWN_SIDE // max(min(picture.size), 1)))
    size = (picture.width * scale, picture.height * scale)
    canvas = picture.convert("RGB").resize(size, Image.Resampling.NEAREST)
    for entry in reversed(objects):  # the most certain on top
        if entry.get("segmentation"):
            canvas = _veil(canvas, entry["segmentation"], box_color(entry), scale)
    pen = ImageDraw.Draw(canvas)
    width = max(2, round(min(size) / 250))
    for entry in reversed(objects):
        box = _corners(entry["bbox"], scale)
        outer = (box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1)
        pen.rectangle(outer, outline="black", width=width + 2)  # seen on any ground
        pen.rectangle(box, outline=box_color(entry), width=width)
    _label(pen, objects, size, scale)
    return canvas


def _label(
    pen: ImageDraw.ImageDraw, objects: Sequence[Mapping[str, Any]], size: tuple[int, int], scale: int
) -> None:
    """Write classes and scores above the boxes, or where they hide no other label."""
    taken: list[tuple[float, float, float, float]] = []
    for entry in objects:
        text = visible(entry["class"]) + (f" {entry['score']:.2f}" if "score" in entry else "")
        font = font_for(text, max(_FONT, round(min(size) / 40)))
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        width, height = right - left + 6, bottom - top + 4
        x0, y0, x1, y1 = _corners(entry["bbox"], scale)
        places = [(x0, y0 - height), (x0, y1), (x0, y0), (x1 - width, y1 - height), (x1, y0), (x0 - width, y0)]
        inside = [
            (min(max(x, 0), max(size[0] - width, 0)), min(max(y, 0), max(size[1] - height, 0))) for x, y in places
        ]
        rectangles = [(x, y, x + width, y + height) for x, y in inside]
        # the first that is free, else the usual one
        place = next((r for r in rectangles if not any(_meet(r, other) for other in taken)), rectangles[0])
        taken.append(place)
        colour = box_color(entry)
        pen.rectangle(place, fill=colour)
        pen.text((place[0] + 3 - left, place[1] + 2 - top), text, fill=_ink(colour), font=font)


def _veil(canvas: Image.Image, code: Mapping[str, Any], colour: str, scale: int) -> Image.Image:
    from pycocotools import mask as codes

    mask: NDArray[np.uint8] = codes.decode(dict(code))
    enlarged = Image.fromarray(mask * round(255 * _VEIL)).resize(canvas.size, Image.Resampling.NEAREST)
    return Image.composite(Image.new("RGB", canvas.size, colour), canvas, enlarged)


def box_color(entry: Mapping[str, Any]) -> str:
    """Return the colour in which `draw` shows an object."""
    return OKABE_ITO[(entry["label"] - 1) % len(OKABE_ITO)]


def _ink(colour: str) -> str:
    """Return black or white, whichever is easier to read on a colour (relative luminance as in WCAG 2)."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return "black" if linear[0] * 0.2126 + linear[1] * 0.7152 + linear[2] * 0.0722 > 0.179 else "white"


def _corners(bbox: Sequence[float], scale: int) -> tuple[float, float, float, float]:
    x, y, width, height = (value * scale for value in bbox)
    return x, y, x + max(width - 1, 0), y + max(height - 1, 0)


def _meet(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
