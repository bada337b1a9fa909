"""Annotation files in COCO's format, every entry checked before anything uses it."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .coco import Annotation, CocoImage, CocoSet, PackedAnnotations
from .coco_masks import mask_problem
from .contents import quoted
from .error import DataError
from .files import in_words, open_regular

_EXAMPLES = 3
_MOST_SIDE = 1_000_000  # pixels; no image has such a side
_BEYOND = 1.0  # pixels by which rounded boxes reach beyond an image


def read_coco(
    file: str | os.PathLike[str], images: str | os.PathLike[str], *, masks: bool = False, strict: bool = False
) -> CocoSet:
    """Read ``instances_*.json`` or any file of that format.

    Images and objects that cannot be used are counted by reason, named in ``notes`` and left out: images that are
    missing or listed twice; objects whose box or mask is not one, lies outside the image or is empty, whose image
    or category is not listed, or whose id came up before. Boxes that reach a little beyond the image are kept as
    they are, and cut off for training.

    Args:
        file: the annotation file.
        images: the folder that its file names begin in.
        masks: objects need masks too.
        strict: raise at the first entry that would be left out.

    Raises:
        DataError: the file cannot be read, is not of this format, or has no usable images.
    """
    return _Reader(Path(file), Path(images), masks, strict).read()


class _Reader:
    """One pass over an annotation file; ``problems`` collects what is left out, by reason."""

    def __init__(self, file: Path, folder: Path, masks: bool, strict: bool) -> None:
        self.file, self.folder = file, folder
        self.masks, self.strict = masks, strict
        self.problems: dict[str, list[str]] = {}

    def read(self) -> CocoSet:
        content = _load(self.file)
        labels, names = self._categories(content["categories"])
        if not self.folder.is_dir():
            raise DataError(f"{self.folder}: no such folder, though {self.file} is there")
        images = self._images(content["images"])
        known = {entry.get("id") for entry in content["images"] if isinstance(entry, dict) and _is_id(entry)}
        of_image: dict[Any, list[Annotation]] = {image.id: [] for image in images}
        sizes = {image.id: (image.height, image.width) for image in images}
        seen: set[Any] = set()
        for entry in content["annotations"]:
            self._annotation(entry, labels, known, sizes, of_image, seen)
        if not images:
            raise DataError(f"{self.file}: no usable images" + "".join(f"; {line}" for line in self._summary()))
        notes = [f"{self.file}: {line}" for line in self._summary()]
        ids = tuple(sorted(labels, key=labels.__getitem__))
        return CocoSet(names, ids, images, PackedAnnotations(of_image[image.id] for image in images), notes)

    def _categories(self, entries: list[Any]) -> tuple[dict[int, int], tuple[str, ...]]:
        """Return the labels 1, 2, … by category id, and the names in their order."""
        by_id: dict[int, str] = {}
        for entry in entries:
            number, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
            if not isinstance(number, int) or isinstance(number, bool) or not isinstance(name, str):
                raise DataError(f"{self.file}: a category needs a whole-number id and a name, got {_short(entry)}")
            if number in by_id:
                raise DataError(f"{self.file}: the category id {number} is listed twice")
            if name in by_id.values():
                raise DataError(f"{self.file}: the category name {name!r} is listed twice")
            by_id[number] = name
        if not by_id:
            raise DataError(f"{self.file}: lists no categories")
        order = sorted(by_id)
        return {number: label for label, number in enumerate(order, 1)}, tuple(by_id[number] for number in order)

    def _images(self, entries: list[Any]) -> list[CocoImage]:
        images: list[CocoImage] = []
        seen: set[Any] = set()
        there = _Files(self.folder)
        for entry in entries:
            if not isinstance(entry, dict) or not _is_id(entry):
                self._leave_out("images without an id", _short(entry))
                continue
            number, name = entry["id"], entry.get("file_name")
            height, width = entry.get("height"), entry.get("width")
            if number in seen:
                self._leave_out("images whose id came up before", f"image {str(number)[:60]}")
                continue
            seen.add(number)
            if not isinstance(name, str) or not name:
                self._leave_out("images without a file name", f"image {str(number)[:60]}")
            elif os.path.isabs(name) or ".." in Path(name).parts:
                self._leave_out("images outside the folder", name)
            elif not _is_side(height) or not _is_side(width):
                self._leave_out("images without a height and a width", f"image {str(number)[:60]}")
            elif not there.has(name):
                self._leave_out("images whose file does not exist", name)
            else:
                images.append(CocoImage(number, str(self.folder / name), int(height), int(width)))
        return images

    def _annotation(
        self,
        entry: Any,
        labels: dict[int, int],
        known: set[Any],
        sizes: dict[Any, tuple[int, int]],
        of_image: dict[Any, list[Annotation]],
        seen: set[Any],
    ) -> None:
        if not isinstance(entry, dict) or not _is_id(entry):
            return self._leave_out("annotations without an id", _short(entry))
        number, image = entry["id"], entry.get("image_id")
        what = f"annotation {str(number)[:60]}"
        if number in seen:
            return self._leave_out("annotations whose id came up before", what)
        seen.add(number)
        if not isinstance(image, int | str) or image not in known:
            return self._leave_out("annotations of an image that is not listed", f"{what}, image {_short(image)}")
        if image not in sizes:  # the image was left out, and named
            return None
        category = entry.get("category_id")
        if not isinstance(category, int) or category not in labels:
            reason = "annotations of a category that is not listed"
            return self._leave_out(reason, f"{what}, category {_short(category)}")
        height, width = sizes[image]
        problem, box = _box(entry.get("bbox"), height, width)
        if problem:
            return self._leave_out(f"annotations {problem}", f"{what}, bbox {_short(entry.get('bbox'))}")
        segmentation = entry.get("segmentation") or None
        if self.masks or segmentation is not None:
            problem = mask_problem(segmentation, height, width)
            if problem and self.masks:
                return self._leave_out(f"annotations {problem}", what)
            segmentation = None if problem else segmentation
        area = entry.get("area")
        if not _is_number(area) or area < 0:
            area = (box[2] - box[0]) * (box[3] - box[1])
        crowd = bool(entry.get("iscrowd", 0))
        of_image[image].append(
            Annotation(labels[category], box, float(area), crowd, segmentation if self.masks else None)
        )
        return None

    def _leave_out(self, reason: str, example: str) -> None:
        if self.strict:
            raise DataError(f"{self.file}: {reason} are not allowed here ({example})")
        self.problems.setdefault(reason, []).append(example)

    def _summary(self) -> Iterator[str]:
        for reason, examples in self.problems.items():
            more = ", …" if len(examples) > _EXAMPLES else ""
            yield f"{len(examples)} {reason} are left out ({', '.join(examples[:_EXAMPLES])}{more})"


class _Files:
    """Tells which files are in a folder; reads every folder once instead of asking for every file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, set[str]] = {}

    def has(self, name: str) -> bool:
        folder, _, file = name.rpartition("/")
        if folder not in self._names:
            self._names[folder] = set()
            with contextlib.suppress(OSError, ValueError), os.scandir(self.root / folder) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):  # of a link to itself: the others are good
                        if entry.is_file():
                            self._names[folder].add(entry.name)
        return file in self._names[folder]


def _load(file: Path) -> dict[str, list[Any]]:
    try:
        with open_regular(file) as opened:
            content = json.loads(opened.read().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: {in_words(error)}") from error
    except json.JSONDecodeError as error:
        truncated = error.pos >= len(error.doc.rstrip()) - 1
        what = "ends in the middle; truncated, fetch it again" if truncated else f"not JSON ({error.msg})"
        raise DataError(f"{file}, line {error.lineno}, column {error.colno}: {what}") from error
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{file}: not COCO's format ({in_words(error)})") from error
    except RecursionError as error:
        raise DataError(f"{file}: not COCO's format, but lists within lists") from error
    if not isinstance(content, dict):
        hint = "; this looks like results, not annotations" if isinstance(content, list) else ""
        raise DataError(f"{file}: not COCO's format: expected an object, got a {type(content).__name__}{hint}")
    for name in ("images", "annotations", "categories"):
        if not isinstance(content.get(name), list):
            raise DataError(
                f"{file}: not COCO's format: it has no list {name!r}, only {quoted(sorted(map(str, content)))}"
            )
    return content


def _box(bbox: Any, height: int, width: int) -> tuple[str, tuple[float, float, float, float]]:
    """Return what is wrong with ``x, y, width, height``, and the box as ``x0, y0, x1, y1``."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(v, int | float) for v in bbox):
        return "without a box of four numbers", (0, 0, 0, 0)
    if not all(map(_is_number, bbox)):
        return "with NaN or infinite coordinates", (0, 0, 0, 0)
    x, y, w, h = map(float, bbox)
    if w <= 0 or h <= 0:
        return "with a box of zero or negative size", (0, 0, 0, 0)
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return "with a box outside the image", (0, 0, 0, 0)
    box = (x, y, x + w, y + h)
    if min(x, y) < -_BEYOND or box[2] > width + _BEYOND or box[3] > height + _BEYOND:
        # half a box beyond the image means that the sizes or the coordinates are wrong
        inside = (min(box[2], width) - max(x, 0)) * (min(box[3], height) - max(y, 0))
        if inside < 0.5 * w * h:
            return "with a box mostly outside the image", box
    return "", box


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    # a whole number beyond all floats is as good as infinite
    return abs(value) <= sys.float_info.max


def _is_side(value: Any) -> bool:
    return _is_number(value) and 1 <= value <= _MOST_SIDE and value == int(value)


def _is_id(entry: dict[str, Any]) -> bool:
    return isinstance(entry.get("id"), int | str)


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:60]}…"
