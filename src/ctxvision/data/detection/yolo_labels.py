"""YOLO's labels: ``data.yaml``, and a text file for each image, with a line for each object."""

import functools
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ctxvision.data.error import DataError
from ctxvision.data.files import in_words, read_regular
from ctxvision.data.images.reading import is_image, list_images
from ctxvision.runs import plain_yaml

from .labels import PARTS, LabelError, LabelledObject, LabelledPart, Labels, by_part, clipped

_MOST_SETTINGS = 1 << 20  # bytes
_MOST_LABELS = 1 << 24
_BEYOND = 1.01  # image sizes that rounded numbers may reach


def find_yolo(place: Path) -> Labels | None:
    """Find the parts of a data set with YOLO's labels; ``None`` if it has none.

    Args:
        place: The path of a folder, or of ``data.yaml``.

    Raises:
        DataError: ``data.yaml`` cannot be used.
    """
    if place.is_dir():
        files = [file for name in ("data.yaml", "data.yml") if (file := place / name).is_file()]
        if not files:
            return _without_settings(place)
        place = files[0]
    if place.suffix.lower() not in (".yaml", ".yml"):
        return None
    settings = _settings(place)
    root = _normal(place.parent)
    names = _names(place, settings.get("names"))
    poses = "kpt_shape" in settings
    parts = {}
    for part, keys in PARTS.items():
        entry = next((settings[key] for key in keys if settings.get(key)), None)
        if entry is not None:
            images = [image for text in _texts(place, entry) for image in _images(place, settings, text)]
            parts[part] = LabelledPart(images, functools.partial(_read, root=root, names=names, poses=poses))
    if not parts:
        raise DataError(f"{place}: names no images; it needs train or val")
    return Labels(root, parts, names)


def _without_settings(root: Path) -> Labels | None:
    listed = next((f for f in (root / "classes.txt", root / "labels" / "classes.txt") if f.is_file()), None)
    if listed is None or not (root / "images").is_dir() or not (root / "labels").is_dir():
        return None
    names = tuple(filter(None, map(str.strip, _text(listed, _MOST_SETTINGS).splitlines())))
    if not names or len(set(names)) < len(names):
        raise DataError(f"{listed}: must name every class once, one in a line")
    folders = dict(by_part([folder for folder in (root / "images").iterdir() if folder.is_dir()]))
    read = functools.partial(_read, root=root, names=names, poses=False)
    parts = {
        part: LabelledPart([Path(image) for image in list_images(folder)], read)
        for part, folder in (folders or {"all": root / "images"}).items()
    }
    return Labels(root, parts, names)


def _settings(file: Path) -> dict[str, Any]:
    try:
        settings = plain_yaml(read_regular(file, _MOST_SETTINGS))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: {in_words(error)}") from error
    if not isinstance(settings, dict) or "names" not in settings:
        raise DataError(f"{file}: not the settings of a YOLO data set, which have names, train and val")
    return settings


def _names(file: Path, names: Any) -> tuple[str, ...]:
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(f"{file}: names must be numbered from 0, got {', '.join(map(str, list(names)[:5]))}")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int) for name in names):
        raise DataError(f"{file}: names must be a list of class names")
    texts = tuple(map(str, names))
    if len(set(texts)) < len(texts):
        raise DataError(f"{file}: names has a class twice")
    return texts


def _texts(file: Path, entry: Any) -> list[str]:
    entries = entry if isinstance(entry, list) else [entry]
    if not all(isinstance(one, str) for one in entries):
        raise DataError(f"{file}: train, val and test must be paths or lists of paths")
    return entries


def _images(file: Path, settings: dict[str, Any], text: str) -> list[Path]:
    """List the images of an entry: a folder, a list of images in a text file, or an image."""
    root = _normal(file.parent)
    given = settings.get("path")
    start = given if isinstance(given, str) else ""
    # exports write "../train/images" and mean what is beside the file; "path" may be of another machine
    entries = [text, text.removeprefix("../"), text.removeprefix("../../")]
    places = [_normal(folder / entry) for folder in (root / start, root) for entry in entries]
    inside = [place for place in (_below(place, root) for place in places) if place is not None]
    found = next((place for place in inside if place.exists()), None)
    if found is None:
        outside = next((place for place in places if place.exists()), None)
        if outside is not None:
            raise DataError(f"{file}: {text!r} lies outside of {root}; move the file to the folder of the images")
        raise DataError(f"{file}: there is no {text!r} below {root}")
    if found.is_dir():
        return [Path(image) for image in list_images(found)]
    if found.suffix.lower() == ".txt":
        lines = filter(None, map(str.strip, _text(found, _MOST_LABELS).splitlines()))
        images = [_below(place, root) for line in lines for place in (found.parent / line, root / line)]
        return list(dict.fromkeys(one for one in images if one and one.is_file() and is_image(str(one))))
    return [found]


def _normal(place: Path) -> Path:
    """Return a path without ``..`` in it."""
    return Path(os.path.normpath(place))


def _below(place: Path, root: Path) -> Path | None:
    """Return a path as one that begins with a folder, without ``..`` in it; ``None`` if it leads out of it.

    One of them may be absolute, and the other not.
    """
    if not place.resolve().is_relative_to(root.resolve()):
        return None
    for whole in (os.path.abspath, os.path.realpath):
        with suppress(ValueError):  # links lead from one to the other
            return root / Path(whole(place)).relative_to(whole(root))
    return None


def _label_file(image: Path, root: Path) -> Path:
    """Return the label file of an image: ``labels`` in the place of the last ``images`` of its path."""
    parts = list(image.relative_to(root).parts)
    for index in reversed(range(len(parts) - 1)):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return root.joinpath(*parts).with_suffix(".txt")


def _read(
    image: Path, size: tuple[int, int], *, root: Path, names: tuple[str, ...], poses: bool
) -> list[LabelledObject]:
    file = _label_file(image, root)
    if not file.is_file():
        return []  # an image of nothing but background
    try:
        text = read_regular(file, _MOST_LABELS).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise LabelError(f"{file.name}: {in_words(error)}") from error
    objects = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                objects.append(_object(line.split(), size, names, poses))
            except LabelError as error:
                raise LabelError(f"{file.name}, line {number}: {error}") from error
    return list(dict.fromkeys(objects)) if all(one.polygon is None for one in objects) else objects


def _object(words: list[str], size: tuple[int, int], names: tuple[str, ...], poses: bool) -> LabelledObject:
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise LabelError(f"not made of numbers: {' '.join(words)[:60]!r}") from error
    if not all(map(math.isfinite, values)):
        raise LabelError("has NaN or infinite numbers")
    if len(values) < 5 or values[0] != int(values[0]) or not 0 <= values[0] < len(names):
        expected = f"the number of a class, 0 to {len(names) - 1}, and x, y, width, height"
        raise LabelError(f"expected {expected}, got {' '.join(words)[:60]!r}")
    name, shares = names[int(values[0])], values[1:]
    if any(not -0.01 <= share <= _BEYOND for share in (shares[:4] if poses else shares)):
        raise LabelError("numbers must be shares of the image from 0 to 1; are they pixels?")
    if poses or len(shares) in (4, 5):  # of five, the last is a score
        x, y, width, height = (share * size[index % 2] for index, share in enumerate(shares[:4]))
        return LabelledObject(name, clipped((x - width / 2, y - height / 2, x + width / 2, y + height / 2), size))
    if len(shares) % 2 or len(shares) < 6:
        raise LabelError(f"a polygon has pairs of numbers, three or more, got {len(shares)} numbers")
    points = [round(min(max(share, 0.0), 1.0) * size[index % 2], 3) for index, share in enumerate(shares)]
    box = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
    return LabelledObject(name, clipped(box, size), points)


def _text(file: Path, most: int) -> str:
    try:
        return read_regular(file, most).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: {in_words(error)}") from error
