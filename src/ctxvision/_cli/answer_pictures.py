"""Pictures of answers, in files."""

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ctxvision.data import ClipSpec, DetectionSpec, SegmentationSpec, read_image
from ctxvision.data.video.reading import Frames
from ctxvision.data.video.writing import write_video
from ctxvision.files import write_whole
from ctxvision.inference import Answer, Clip, Objects, Pixels, Predictor
from ctxvision.plots.boxes import draw_boxes
from ctxvision.plots.clips import labelled_frames
from ctxvision.plots.overlays import class_map, overlay, with_legend

_STEM_BYTES = 200  # with a number and an ending a name must not have more than 255

Pictures = Mapping[str, Image.Image | Frames]


def save_pictures(folder: Path, answer: Answer, predictor: Predictor, taken: set[str]) -> list[str]:
    """Draw an answer, and write the pictures, whole, under the name of its file.

    Args:
        folder: The folder to write to, which exists.
        answer: An answer about a file, without an error.
        predictor: The network that gave the answer.
        taken: The names that other files of this command have; one is added.

    Returns:
        The paths of the pictures.

    Raises:
        WriteError: The pictures cannot be written there.
    """
    written, name = [], free_name(str(answer.path), taken)
    for ending, picture in _DRAWN[type(answer)](answer, predictor.data_spec).items():
        path = folder / f"{name}{ending}"
        if isinstance(picture, Image.Image):
            file = io.BytesIO()
            picture.save(file, "PNG")
            write_whole(path, file.getvalue())
        else:
            write_video(path, picture, rate=4)
        written.append(str(path))
    return written


def free_name(path: str, taken: set[str]) -> str:
    stem, number = Path(path).stem, 1
    while len(os.fsencode(stem)) > _STEM_BYTES:
        stem = stem[:-1]
    while (name := stem if number == 1 else f"{stem}-{number}") in taken:
        number += 1
    taken.add(name)
    return name


def _boxes(found: Objects, spec: DetectionSpec) -> Pictures:
    picture = read_image(str(found.path), spec.color_mode)
    boxes, labels, names, scores, masks = (
        [getattr(one, name) for one in found.objects]
        for name in ("bbox", "label", "name", "score", "segmentation")
    )
    return {".png": draw_boxes(picture, boxes, labels, names, scores=scores, masks=masks if all(masks) else None)}


def _colours(found: Pixels, spec: SegmentationSpec) -> Pictures:
    shown = overlay(read_image(str(found.path), spec.color_mode), found.classes, spec.colors)
    return {
        ".overlay.png": with_legend(shown, found.classes, spec.class_names, spec.colors),
        ".classes.png": class_map(found.classes, spec.colors),
    }


def _frames(found: Clip, spec: ClipSpec) -> Pictures:
    said = (found.pixels, found.probabilities, found.by_frame, spec.class_names)
    return {".mp4": labelled_frames(*said, numbers=found.indices)}


_DRAWN: Mapping[type[Answer], Callable[[Any, Any], Pictures]] = {Objects: _boxes, Pixels: _colours, Clip: _frames}
