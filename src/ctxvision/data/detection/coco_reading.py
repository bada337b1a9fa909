"""Annotation files in COCO's format, every entry checked before anything uses it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctxvision.data.error import DataError
from ctxvision.data.files import in_words, open_regular
from ctxvision.data.images.turned import Exif, find_turned
from ctxvision.data.labelled import quoted

from .coco import Annotation, CocoImage, CocoSet, ImageId, PackedAnnotations
from .coco_layouts import ImageFiles
from .coco_values import (
    as_category,
    as_crowd,
    as_id,
    box_of,
    is_number,
    is_side,
    mask_of,
    other_spelling,
    short,
)

_EXAMPLES = 3


def read_coco(
    file: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    masks: bool = False,
    strict: bool = False,
    single_crowds: bool = False,
    exif: Exif = "auto",
) -> CocoSet:
    """Read ``instances_*.json`` or any file of that format.

    Images and objects that cannot be used are counted by reason, named in ``notes`` and left out: images that are
    missing or listed twice; objects whose box or mask is not one, lies outside the image or is empty, whose image
    or category is not listed, or whose id came up before. Boxes that reach a little beyond the image are kept as
    they are, and cut off for training.

    Args:
        file: The path of the annotation file.
        images: The folder that the file names begin in; see `ImageFiles` for names that do not.
        masks: Whether objects need masks too.
        strict: Whether the first entry that would be left out raises an error.
        single_crowds: Whether objects that the file calls crowds are taken as single objects.
        exif: The treatment of EXIF orientations that no listed size tells about, see `find_turned`.

    Raises:
        DataError: The file cannot be read, is not of this format, or has no usable images.
    """
    return _Reader(Path(file), Path(images), masks, strict, single_crowds).read(exif)


class _Reader:
    """One pass over an annotation file; ``problems`` collects what is left out, by reason."""

    def __init__(self, file: Path, folder: Path, masks: bool, strict: bool, single_crowds: bool) -> None:
        self.file, self.folder = file, folder
        self.masks, self.strict, self.single_crowds = masks, strict, single_crowds
        self.problems: dict[str, list[str]] = {}
        self.remarks: list[str] = []
        self.labels: dict[int, int] = {}
        self.known: set[ImageId] = set()
        self.sizes: dict[ImageId, tuple[int, int]] = {}
        self.of_image: dict[ImageId, list[Annotation]] = {}
        self.crowds: list[str] = []
        self.cut_polygons: list[str] = []
        self.gone = 0  # objects on images that are left out

    def read(self, exif: Exif) -> CocoSet:
        content = _load(self.file)
        self.labels, names = self._categories(content)
        if not self.folder.is_dir():
            raise DataError(f"{self.folder}: no such folder, though {self.file} is there")
        images = self._images(content["images"])
        self.of_image = {image.id: [] for image in images}
        self.sizes = {image.id: (image.height, image.width) for image in images}
        seen: set[ImageId] = set()
        for entry in content["annotations"]:
            self._annotation(entry, seen)
        if not images:
            reasons = "".join(f"; {line}" for line in (*self._summary(), *self.remarks))
            raise DataError(f"{self.file}: no usable images{reasons}")
        turned, remarks = find_turned([(image.name, (image.width, image.height)) for image in images], exif)
        notes = [f"{self.file}: {line}" for line in (*self._summary(), *self.remarks, *self._crowds(), *remarks)]
        ids = tuple(sorted(self.labels, key=self.labels.__getitem__))
        annotations = PackedAnnotations(self.of_image[image.id] for image in images)
        return CocoSet(names, ids, images, annotations, notes, turned=turned)

    def _categories(self, content: dict[str, list[Any]]) -> tuple[dict[int, int], tuple[str, ...]]:
        """Return the labels 1, 2, … by category id, and the names in their order."""
        by_id: dict[int, str] = {}
        for entry in self._without_group(content):
            number, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
            number = as_category(number)
            if number is None or not isinstance(name, str):
                raise DataError(f"{self.file}: a category needs a whole-number id and a name, got {short(entry)}")
            if number in by_id:
                raise DataError(f"{self.file}: the category id {number} is listed twice")
            if name in by_id.values():
                raise DataError(f"{self.file}: the category name {name!r} is listed twice")
            by_id[number] = name
        if not by_id:
            raise DataError(f"{self.file}: lists no categories")
        order = sorted(by_id)
        return {number: label for label, number in enumerate(order, 1)}, tuple(by_id[number] for number in order)

    def _without_group(self, content: dict[str, list[Any]]) -> list[Any]:
        """Leave out Roboflow's group, an unused category of the same name as one of its members."""
        entries = content["categories"]
        listed = [entry for entry in entries if isinstance(entry, dict)]
        groups = [g for g in listed if any(e is not g and e.get("name") == g.get("name") for e in listed)]
        groups = [g for g in groups if any(e is not g and e.get("supercategory") == g.get("name") for e in listed)]
        used = {short(a.get("category_id")) for a in content["annotations"] if isinstance(a, dict)}
        groups = [group for group in groups if short(group.get("id")) not in used]
        if len(groups) != 1:
            return entries
        self.remarks.append(
            f"the category {short(groups[0].get('id'))} only groups others, of which one is called "
            f"{groups[0].get('name')!r} too; it is left out of the classes"
        )
        return [entry for entry in entries if entry is not groups[0]]

    def _images(self, entries: list[Any]) -> list[CocoImage]:
        listed: list[tuple[CocoImage, str]] = []  # with its name in the file, and where it lies below the folder
        there = ImageFiles(self.folder)
        for entry in entries:
            number = as_id(entry.get("id")) if isinstance(entry, dict) else None
            if number is None:
                self._leave_out("images without an id", short(entry))
                continue
            name, height, width = entry.get("file_name"), entry.get("height"), entry.get("width")
            if number in self.known:
                self._leave_out("images whose id came up before", f"image {str(number)[:60]}")
                continue
            self.known.add(number)
            if not isinstance(name, str) or not name:
                self._leave_out("images without a file name", f"image {str(number)[:60]}")
            elif not is_side(height) or not is_side(width):
                self._leave_out("images without a height and a width", f"image {str(number)[:60]}")
            else:
                inside = not os.path.isabs(name) and ".." not in Path(name).parts
                place = name if inside and there.has(name) else there.find(name) or ""
                listed.append((CocoImage(number, name, int(height), int(width)), place))
        return self._found(listed, there)

    def _found(self, listed: list[tuple[CocoImage, str]], there: ImageFiles) -> list[CocoImage]:
        """Return the images whose files are there, by their paths."""
        claims: dict[str, int] = {}
        for _, place in listed:
            claims[place] = claims.get(place, 0) + 1
        images, respelt = [], []
        for image, place in listed:
            if not place:
                outside = os.path.isabs(image.name) or ".." in Path(image.name).parts
                reason = "outside the folder" if outside else "whose file does not exist"
                self._leave_out(f"images {reason}", image.name)
            elif place != image.name and claims[place] > 1:
                self._leave_out("images whose file other images claim too", f"{image.name} for {place}")
            else:
                images.append(image._replace(name=str(self.folder / place)))
                # a name that begins at a folder above is the path of this very file
                if place != image.name and not (self.folder / place).as_posix().endswith(f"/{image.name}"):
                    respelt.append((image.name, place))
        if respelt:
            before, after = respelt[0]
            self.remarks.append(f"{len(respelt)} images are taken from other paths, as {after!r} for {before!r}")
        if listed and not images:
            name = listed[0][0].name
            self.remarks.append(f"looked for {name!r}, and its endings, in {self.folder}, {there.example()}")
        return images

    def _annotation(self, entry: Any, seen: set[ImageId]) -> None:
        number = as_id(entry.get("id")) if isinstance(entry, dict) else None
        if number is None:
            return self._leave_out("annotations without an id", short(entry))
        what = f"annotation {str(number)[:60]}"
        if number in seen:
            return self._leave_out("annotations whose id came up before", what)
        seen.add(number)
        image = as_id(entry.get("image_id"))
        if image is not None and image not in self.known:
            image = other_spelling(image)
        if image is None or image not in self.known:
            example = f"{what}, image {short(entry.get('image_id'))}"
            return self._leave_out("annotations of an image that is not listed", example)
        if image not in self.sizes:  # the image was left out, and named
            self.gone += 1
            return None
        category = as_category(entry.get("category_id"))
        if category not in self.labels:
            reason = "annotations of a category that is not listed"
            return self._leave_out(reason, f"{what}, category {short(entry.get('category_id'))}")
        height, width = self.sizes[image]
        problem, box = box_of(entry.get("bbox"), height, width)
        if problem:
            return self._leave_out(f"annotations {problem}", f"{what}, bbox {short(entry.get('bbox'))}")
        segmentation = None
        if self.masks:
            problem, segmentation, cut = mask_of(entry.get("segmentation"), height, width)
            if problem:
                return self._leave_out(f"annotations {problem}", what)
            self.cut_polygons += [what] * cut
        crowd = as_crowd(entry.get("iscrowd"))
        if crowd is None:
            example = f"{what}, iscrowd {short(entry.get('iscrowd'))}"
            return self._leave_out("annotations whose iscrowd is neither 0 nor 1", example)
        self.crowds += [what] if crowd else []
        area = entry.get("area")
        if not is_number(area) or area <= 0:
            area = (box[2] - box[0]) * (box[3] - box[1])
        crowd = crowd and not self.single_crowds
        self.of_image[image].append(Annotation(self.labels[category], box, float(area), crowd, segmentation))
        return None

    def _leave_out(self, reason: str, example: str) -> None:
        if self.strict:
            raise DataError(f"{self.file}: {reason} are not allowed here ({example})")
        self.problems.setdefault(reason, []).append(example)

    def _summary(self) -> Iterator[str]:
        for reason, examples in self.problems.items():
            yield f"{len(examples)} {reason} are left out ({_first(examples)})"
        if self.gone:
            yield f"{self.gone} annotations of images that are left out go with them"
        if self.cut_polygons:
            yield (
                f"{len(self.cut_polygons)} polygons of fewer than three points are left out, their objects keep "
                f"the others ({_first(self.cut_polygons)})"
            )

    def _crowds(self) -> Iterator[str]:
        if not self.crowds:
            return
        of = f"{len(self.crowds)} of {sum(map(len, self.of_image.values()))} objects"
        if self.single_crowds:
            yield f"{of} have iscrowd 1 and are taken as single objects, as crowd=single asks"
            return
        yield (
            f"{of} are crowds (iscrowd 1: {_first(self.crowds)}): they are not trained on, and detections in them "
            "do not count; where they are single objects, as masks of CVAT's brush are, add #crowd=single"
        )


def _first(examples: list[str]) -> str:
    return ", ".join(examples[:_EXAMPLES]) + (", …" if len(examples) > _EXAMPLES else "")


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
