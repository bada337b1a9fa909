"""Labels of YOLO and Pascal VOC as annotation files in COCO's format."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ctxvision.data.error import DataError
from ctxvision.data.files import in_words
from ctxvision.data.images.reading import DECODER_ERRORS
from ctxvision.data.images.turned import shown_size
from ctxvision.files import write_whole
from ctxvision.foreign import json_text
from ctxvision.progress import Progress, counted, silent

from .coco_layouts import find_parts
from .coco_values import Box

PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


class LabelError(ValueError):
    """A label file that cannot be used; the message says in words what is wrong with it."""


class LabelledObject(NamedTuple):
    """An object of a label file.

    ``box`` is x0, y0, x1, y1 in pixels, ``polygon`` a list of x, y, x, y, … in pixels or ``None``; an ``ignored``
    object is neither trained nor scored.
    """

    class_name: str
    box: Box
    polygon: list[float] | None = None
    ignored: bool = False


_Read = tuple[Path, tuple[int, int], list[LabelledObject]]


class LabelledPart(NamedTuple):
    """A part of a labelled data set: its images, and how the objects on one are read.

    ``read`` takes the path of an image and its (width, height), and raises `LabelError`.
    """

    images: Sequence[Path]
    read: Callable[[Path, tuple[int, int]], list[LabelledObject]]


class Labels(NamedTuple):
    """A labelled data set as it was found: its parts by name, its classes in order, and what a person should know.

    Without ``class_names`` the classes are those that occur, in alphabetical order.
    """

    root: Path
    parts: dict[str, LabelledPart]
    class_names: tuple[str, ...] | None


@dataclass
class Converted:
    """What `convert_labels` has written.

    Attributes:
        files: The annotation file of each part.
        counts: The number of images and of objects of each part.
        class_names: The names of the classes; category ids count them from 1.
        data: The DATA argument that names these annotations for `ctxvision train --task detect`.
        bad: What could not be used, by file, in words.
    """

    files: dict[str, Path]
    counts: dict[str, tuple[int, int]]
    class_names: tuple[str, ...]
    data: str
    bad: dict[str, str] = field(default_factory=dict)


def convert_labels(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    strict: bool = False,
    progress: Progress = silent,
) -> Converted:
    """Write YOLO's or Pascal VOC's labels as annotation files in COCO's format; images stay where they are.

    - YOLO: a folder with ``data.yaml``, or the path of such a file; without one, a folder with ``images/``,
      ``labels/`` and ``classes.txt``. Boxes and polygons are read, of poses the boxes.
    - VOC: a folder with ``Annotations/*.xml`` and ``JPEGImages/``, parts by ``ImageSets/Main``; or ``*.xml``
      beside the images, as exports have them in ``train/`` and ``valid/``. Objects that are marked as difficult
      become crowds, which nothing is trained on and no detection is blamed for.

    Labels need not be trusted: XML with a document type, and so with entities, is refused, and no path in a file
    leads out of the folder.

    Args:
        source: The path of the folder, or of ``data.yaml``.
        out: The folder that gets ``annotations/instances_*.json``; by default the folder of the labels.
        strict: Whether the first label file or image that cannot be used raises an error; by default an image
            without usable labels is left out, and named in the result.
        progress: The function that is told how many images have been read.

    Raises:
        DataError: There are no such labels, or none can be used.
        WriteError: A file cannot be written.
    """
    from .voc_labels import find_voc
    from .yolo_labels import find_yolo

    place = Path(source)
    if not place.exists():
        raise DataError(f"{source}: no such file or folder")
    labels = find_yolo(place) or find_voc(place)
    if labels is None:
        raise DataError(
            f"{source}: neither YOLO's labels (data.yaml, or images/, labels/ and classes.txt) nor Pascal VOC's "
            "(Annotations/*.xml, or *.xml beside the images)"
        )
    folder = Path(out) if out is not None else labels.root
    found: dict[str, list[tuple[Path, tuple[int, int], list[LabelledObject]]]] = {
        name: [] for name in labels.parts
    }
    bad: dict[str, str] = {}
    for name, part in labels.parts.items():
        for image in counted(part.images, progress, f"reading labels of {name}", len(part.images)):
            try:
                size = shown_size(str(image))
                found[name].append((image, size, part.read(image, size)))
            except LabelError as error:
                bad[str(image)] = str(error)
            except DECODER_ERRORS as error:
                bad[str(image)] = f"the image cannot be read ({in_words(error)})"
            if strict and bad:
                raise DataError(f"{image}: {bad[str(image)]}")
    if not any(found.values()):
        first = next(iter(bad.items()), (str(source), "there are no images"))
        raise DataError(f"{source}: not one image with usable labels ({first[0]}: {first[1]})")
    every = (one.class_name for part in found.values() for _, _, objects in part for one in objects)
    names = labels.class_names or tuple(sorted(set(every)))
    if not any(objects for part in found.values() for _, _, objects in part):
        raise DataError(f"{source}: no image has an object; are the label files where they belong?")
    files = {}
    with suppress(FileExistsError):
        (folder / "annotations").mkdir(parents=True)
    for name, images in found.items():
        files[name] = folder / "annotations" / f"instances_{name}.json"
        content = _coco(labels.root, images, names)
        write_whole(files[name], json_text(content, allow_nan=False) + "\n")
    counts = {name: (len(part), sum(len(objects) for *_, objects in part)) for name, part in found.items()}
    return Converted(files, counts, names, _argument(folder, labels.root, files), bad)


def _coco(root: Path, images: Sequence[_Read], names: Sequence[str]) -> dict[str, Any]:
    number = {name: index for index, name in enumerate(names, 1)}
    listed: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (path, (width, height), objects) in enumerate(images, 1):
        name = path.relative_to(root).as_posix()
        listed.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for one in objects:
            x0, y0, x1, y1 = one.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": number[one.class_name],
                    "bbox": [round(value, 3) for value in (x0, y0, x1 - x0, y1 - y0)],
                    "area": round(_area(one), 3),
                    "iscrowd": int(one.ignored),
                    **({"segmentation": [one.polygon]} if one.polygon else {}),
                }
            )
    categories = [{"id": index, "name": name} for name, index in number.items()]
    return {"images": listed, "annotations": annotations, "categories": categories}


def _area(one: LabelledObject) -> float:
    x0, y0, x1, y1 = one.box
    if not one.polygon:
        return (x1 - x0) * (y1 - y0)
    xs, ys = one.polygon[::2], one.polygon[1::2]
    pairs = zip(xs, ys, [*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True)
    return abs(sum(x * next_y - next_x * y for x, y, next_x, next_y in pairs)) / 2


def _argument(folder: Path, root: Path, files: dict[str, Path]) -> str:
    """Return the shortest DATA argument by which the annotations are found again."""
    if folder == root:
        with suppress(DataError):
            parts = find_parts(folder, {})
            if isinstance(parts, dict) and not any(isinstance(part, DataError) for part in parts.values()):
                return str(folder)
    named = [f"{root}:{file}" for name, file in files.items() if name != "test" or len(files) == 1]
    return named[0] if len(named) == 1 else f"{named[0]}#val={named[1]}"


def by_part(folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Yield the parts that folders are, by their names: ``valid`` is the part ``val``."""
    for name, spellings in PARTS.items():
        for folder in folders:
            if folder.name.lower() in spellings:
                yield name, folder
                break


def clipped(box: Box, size: tuple[int, int]) -> Box:
    """Return the part of a box that is on an image of (width, height).

    Raises:
        LabelError: Nothing of it is.
    """
    x0, y0, x1, y1 = (min(max(value, 0.0), float(size[index % 2])) for index, value in enumerate(box))
    if x1 - x0 < 0.01 or y1 - y0 < 0.01:
        raise LabelError(f"a box {tuple(round(value, 2) for value in box)} is empty or outside the image")
    return x0, y0, x1, y1
