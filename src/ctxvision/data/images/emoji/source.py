"""The source ``emoji``: which drawings a network trains on, and on whose it is tested."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from ctxvision.data.error import DataError
from ctxvision.data.images.shard_index import cache_folder
from ctxvision.data.labelled import DEFAULT_SPLIT, Found, LabelledSet, SplitRule, arrange, in_order
from ctxvision.data.options import check_options, choose_value
from ctxvision.files import reason, replacing_folder

from . import packages as pinned
from .drawings import BY_CODE_POINT, credits_text, find_emoji, render, svg

_log = logging.getLogger(__name__)

_FORMAT = 1  # of the rendered folders
_SIZES = (8, 512)
_CLASSES = 100
_INDEX = "classes.json"
CREDITS = "CREDITS.md"


def read_emoji(options: Mapping[str, str] | None = None, *, split: SplitRule = DEFAULT_SPLIT) -> LabelledSet:
    """Open the emoji, which are fetched and rendered into the cache folder the first time.

    A class is an emoji, known by its code points; a sample is one artist's drawing of it. A network is trained on
    the drawings of all artists but two, validated on those of one of the two and tested on the other's: it must
    know what a thing is, and not how somebody draws it.

    Args:
        options: The options of DATA. ``classes`` is the number of classes, 100 by default, or ``all``; see
            `find_emoji` for their order. ``size`` is the height and width in pixels, 64 by default. ``val`` and
            ``test`` name the two artists that are held out, by default ``twemoji`` and ``fluent-emoji-flat``.
            ``part``, ``val`` by default, says which of the two is the validation part; ``test`` is for the end.
        split: The rule that says which classes there are.

    Raises:
        DataError: An option is wrong, or the drawings cannot be fetched or rendered.
    """
    where = "emoji"
    options = check_options(where, options, ("classes", "size", "val", "test", "part"))
    size = _number(where, "size", options.get("size", "64"), *_SIZES)
    held_out = {
        "val": choose_value(where, options, "val", ("twemoji", *BY_CODE_POINT)),
        "test": choose_value(where, options, "test", ("fluent-emoji-flat", *BY_CODE_POINT)),
    }
    if held_out["val"] == held_out["test"]:
        raise DataError(f"{where}: val and test are both {held_out['val']!r}; choose two artists")
    part = choose_value(where, options, "part", ("val", "test"))
    asked = options.get("classes", str(_CLASSES))
    if asked != "all":
        _number(where, "classes", asked, 2, 100_000)

    folder = rendered(size)
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    count = len(index) if asked == "all" else int(asked)
    if count > len(index):
        raise DataError(f"{where}: classes must lie between 2 and {len(index)}, got {count}")
    train: Found = {}
    val: Found = {}
    by_name = {f"{name.replace('-', ' ')} ({code})": (code, artists) for code, name, artists in index[:count]}
    for name in in_order(list(by_name)):
        code, artists = by_name[name]
        paths = {artist: str(folder / code / f"{artist}.png") for artist in artists}
        train[name] = {f"{code}/{a}": path for a, path in paths.items() if a not in held_out.values()}
        val[name] = {f"{code}/{held_out[part]}": paths[held_out[part]]}
    labelled = arrange(train, val, where=where, where_val=f"{where} ({held_out[part]})", split=split)
    labelled.root, labelled.image_size, labelled.mirrored = str(folder), size, False
    labelled.notes[:0] = [
        f"validating on the drawings of {held_out[part]}; {folder / CREDITS} names all artists and their licences"
    ]
    return labelled


def _number(where: str, name: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        also = " or all" if name == "classes" else ""
        raise DataError(f"{where}: {name} must be a whole number from {least} to {most}{also}, got {text!r}")
    return int(text)


def rendered(size: int) -> Path:
    """Return the folder ``CLASS/ARTIST.png`` of all drawings at a size, made if it does not exist.

    Its ``classes.json`` lists code point, name and artists of every class in the order of `find_emoji`.

    Args:
        size: The height and width in pixels.

    Raises:
        DataError: The drawings cannot be fetched or rendered.
    """
    mark = hashlib.sha256(json.dumps([_FORMAT, pinned.PACKAGES]).encode()).hexdigest()[:8]
    folder = cache_folder() / "emoji" / f"{mark}-{size}"
    if (folder / _INDEX).is_file():
        return folder
    from filelock import FileLock  # torch needs it too

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / _INDEX).is_file():  # else another process was faster
                _render_all(folder, size)
    except OSError as error:
        raise DataError(
            f"emoji: {folder.parent}: cannot be written ({reason(error)}); CTXVISION_CACHE names another folder"
        ) from error
    return folder


def _render_all(folder: Path, size: int) -> None:
    render(svg({"icons": {"": {"body": ""}}}, "", size))  # before anything is fetched: is the renderer there?
    packages = pinned.open_packages(folder.parent / "packages")
    emoji = find_emoji(packages)
    _log.warning("emoji: rendering %d drawings into %s", sum(len(one.icons) for one in emoji), folder)
    with replacing_folder(folder) as part:
        for one in emoji:
            os.mkdir(part / one.code)
            for artist, name in one.icons.items():
                drawing = svg(packages[artist]["icons"], name, size)
                (part / one.code / f"{artist}.png").write_bytes(render(drawing))
        index = [(one.code, one.name, list(one.icons)) for one in emoji]
        (part / _INDEX).write_text(json.dumps(index), encoding="utf-8")
        said = credits_text(packages, {package.name: package.version for package in pinned.PACKAGES}, size)
        (part / CREDITS).write_text(said, encoding="utf-8")
    _log.warning("emoji: %s", said)
