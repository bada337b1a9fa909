"""Pictures of answers, in files."""

import io
import os
from pathlib import Path

from PIL import Image

from ctxvision.data import SegmentationSpec, read_image
from ctxvision.data.video.writing import write_video
from ctxvision.files import write_whole
from ctxvision.inference import Answer, Clip, Objects, Pixels, Predictor
from ctxvision.plots.boxes import draw_boxes
from ctxvision.plots.clips import labelled_frames
from ctxvision.plots.overlays import class_map, overlay, with_legend

_STEM_BYTES = 200  # with a number and an ending a name must not have more than 255


def save_pictures(folder: Path, answer: Answer, predictor: Predictor, taken: set[str]) -> list[str]:
    """Draw an answer, and write the pictures, whole, under the name of its file.

    Args:
        folder: The folder to write to, which exists.
        answer: An answer about a file, without an error.
        predictor: The network that gave it.
        taken: Names that other files of this command have; one is added.

    Returns:
        The paths of the pictures.

    Raises:
        WriteError: The pictures cannot be written there.
    """
    assert answer.path is not None
    name = _free_name(answer.path, taken)
    if isinstance(answer, Clip):
        frames = labelled_frames(
            answer.pixels, answer.probabilities, answer.by_frame, predictor.class_names, numbers=answer.indices
        )
        write_video(folder / f"{name}.mp4", frames, rate=4)
        return [str(folder / f"{name}.mp4")]
    picture, spec = read_image(answer.path, predictor.data_spec.color_mode), predictor.data_spec
    drawn: dict[str, Image.Image] = {}
    if isinstance(answer, Objects):
        drawn = _boxes(answer, picture)
    elif isinstance(answer, Pixels) and isinstance(spec, SegmentationSpec):
        drawn = _colours(answer, picture, spec)
    for ending, image in drawn.items():
        file = io.BytesIO()
        image.save(file, "PNG")
        write_whole(folder / f"{name}{ending}", file.getvalue())
    return [str(folder / f"{name}{ending}") for ending in drawn]


def _free_name(path: str, taken: set[str]) -> str:
    stem, number = Path(path).stem, 1
    while len(os.fsencode(stem)) > _STEM_BYTES:
        stem = stem[:-1]
    while (name := stem if number == 1 else f"{stem}-{number}") in taken:
        number += 1
    taken.add(name)
    return name


def _boxes(found: Objects, picture: Image.Image) -> dict[str, Image.Image]:
    labels, names = [one.label for one in found.objects], [one.name for one in found.objects]
    masks = [one.segmentation for one in found.objects if one.segmentation] or None
    boxes, scores = [one.bbox for one in found.objects], [one.score for one in found.objects]
    return {".png": draw_boxes(picture, boxes, labels, names, scores=scores, masks=masks)}


def _colours(found: Pixels, picture: Image.Image, spec: SegmentationSpec) -> dict[str, Image.Image]:
    shown = overlay(picture, found.classes, spec.colors)
    return {
        ".overlay.png": with_legend(shown, found.classes, spec.class_names, spec.colors),
        ".classes.png": class_map(found.classes, spec.colors),
    }
