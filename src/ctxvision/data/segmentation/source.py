"""Images with masks, as every source of them is read, and folders of them."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from ctxvision.data.error import DataError
from ctxvision.data.files import Listing, in_words, read_regular
from ctxvision.data.images.reading import HINTS, list_image_files
from ctxvision.data.images.source import TRAIN_FOLDERS, VAL_FOLDERS, part_of
from ctxvision.data.labelled import DEFAULT_SPLIT, SplitRule, as_path, fingerprint, hold_out, quoted
from ctxvision.data.spec import ImageSpec, filter_for_tensors

IGNORE = 255
Color = tuple[int, int, int]


@dataclass(frozen=True)
class SegmentationSpec(ImageSpec):
    """The classes of pixels, the size of a training crop (``input_size``), and the normalisation.

    Images that are evaluated or predicted may have any size.

    Attributes:
        colors: The colour of each class in pictures, (red, green, blue) from 0 to 255; by default of `palette`.
        interpolation: The filter with which training images were resized, see `filter_for_tensors`.
    """

    _: KW_ONLY
    colors: tuple[Color, ...] = ()
    interpolation: str = "bilinear"

    def validate_classes(self) -> None:
        """Check that there are 2 to 255 classes with a colour each; without colours, take them from `palette`."""
        filter_for_tensors(self.interpolation)
        count = len(self.class_names)
        if not 2 <= count <= IGNORE:
            raise DataError(f"there must be 2 to 255 classes, got {count}")
        colors = tuple(tuple(color) for color in self.colors) or palette(count)
        if len(colors) != count or any(len(c) != 3 or not all(0 <= v <= 255 for v in c) for c in colors):
            raise DataError(f"{count} classes need as many colours of three numbers from 0 to 255")
        object.__setattr__(self, "colors", colors)

    def eval_transform(self) -> Callable[[Image.Image], Tensor]:
        """Return a function that normalises a PIL image in `color_mode`, without any resizing: (C, H, W)."""
        return lambda image: self.normalize(to_pixels(image))


def to_pixels(image: Image.Image) -> Tensor:
    """Turn a PIL image into a tensor (C, H, W) uint8."""
    pixels: Tensor = pil_to_tensor(image).contiguous()
    return pixels


def palette(count: int) -> tuple[Color, ...]:
    """Return a colour for each class, spread by the bits of its number as PASCAL VOC does; class 0 is black."""
    colors = []
    for index in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        colors.append((channels[0], channels[1], channels[2]))
    return tuple(colors)


UNKNOWN = -1
_MOST_BYTES = 1_000_000  # of the names of 255 classes
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")  # formats that keep every value as it is
Pairs = list[tuple[str, str]]
Opener = Callable[[str], str | Image.Image]


@dataclass
class PixelSet:
    """The images with a class for every pixel that a source holds.

    Attributes:
        class_names: The name of each class, in the order of the values in the masks.
        train: The names of the training images and of their masks.
        val: The names of the images that are held out, and of their masks.
        root: The folder that names begin with, so that they can be shown without it.
        colors: The colour of each class; empty for a palette of ours.
        crop_size: The height and width of training crops that suits these images; ``None`` means that an image has
            to tell.
        tables: Tables (256,) from a mask's values to classes, by the end of the mask's name, -1 for values that no
            mask may have; other masks hold classes.
        bad: The reason by name, for files that have no counterpart.
        notes: The lines that a reader should know about the source.
        fingerprint: A digest of the names of a set that was split here; empty where it came in two parts.
        turned: Whether images are turned by an EXIF orientation of which their mask's size does not tell.
        may_flip: Whether the mirror image of an object is still of its class.
        open_name: The function that makes of a name what is read; it travels to the workers.
    """

    class_names: tuple[str, ...]
    train: Pairs = field(default_factory=list)
    val: Pairs = field(default_factory=list)
    root: str = "."
    colors: tuple[Color, ...] = ()
    crop_size: tuple[int, int] | None = None
    tables: Mapping[str, NDArray[np.int16]] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    fingerprint: str = ""
    turned: bool = True
    may_flip: bool = True
    open_name: Opener = as_path

    def table_for(self, mask: str) -> NDArray[np.int16]:
        """Return the table (256,) from the values of a mask to classes."""
        for end, table in self.tables.items():
            if mask.endswith(end):
                return table
        table = np.full(256, UNKNOWN, dtype=np.int16)
        table[: len(self.class_names)] = np.arange(len(self.class_names))
        table[IGNORE] = IGNORE
        return table


def scan_pixel_folder(root: Path, *, split: SplitRule = DEFAULT_SPLIT) -> PixelSet:
    """Find ``images/`` and ``masks/``, each with ``train/`` and ``val/`` (or without, and then split).

    A mask has the path of its image below ``masks/``, whatever the suffix, and holds the number of a class in
    every pixel, or 255. The classes are the lines of ``classes.txt``.

    Args:
        root: The path of the folder.
        split: The rule that says which images are held out where there is no validation folder.

    Raises:
        DataError: A folder or a file is missing, or nothing is left to train on or to validate on.
    """
    for name in ("images", "masks"):
        if not (root / name).is_dir():
            raise DataError(f"{root}: has no folder {name}; expected images/, masks/ and classes.txt")
    found = PixelSet(read_class_names(root / "classes.txt"), root=str(root))
    train, val = (part_of(root / "images", names) for names in (TRAIN_FOLDERS, VAL_FOLDERS))
    if train:
        if val is None:
            raise DataError(f"{root}: images/ has {train.name}/ but no val/")
        found.train, found.val = _pairs(root, train.name, found), _pairs(root, val.name, found)
    else:
        pairs = _pairs(root, ".", found)
        keys = {image: os.path.relpath(image, root / "images") for image, _ in pairs}
        held_out = hold_out(list(keys.values()), split.fraction, split.seed)
        found.train = [pair for pair in pairs if keys[pair[0]] not in held_out]
        found.val = [pair for pair in pairs if keys[pair[0]] in held_out]
        found.fingerprint = fingerprint(keys.values())
    for part, pairs in (("train on", found.train), ("validate on", found.val)):
        if not pairs:
            first = next(iter(found.bad.items()), None)
            without = f"; {len(found.bad)} have no counterpart, as {first[0]}: {first[1]}" if first else ""
            raise DataError(f"{root}: no images with masks to {part}{without}")
    return found


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read the names of the classes, one in each line; line 1 is class 0.

    Raises:
        DataError: The file is missing, is no text, has an empty line, or names a class twice.
    """
    try:
        text = read_regular(path, _MOST_BYTES).decode("utf-8-sig")
        names = [line.strip() for line in text.rstrip().splitlines()]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; it names the classes, one a line, the first is class 0") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as text ({in_words(error)})") from error
    if not 2 <= len(names) <= IGNORE:
        raise DataError(f"{path}: names {len(names)} classes; there must be 2 to 255")
    if "" in names:
        raise DataError(f"{path}: line {names.index('') + 1} is empty; every line names a class")
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise DataError(f"{path}: names {quoted(twice)} more than once")
    return tuple(names)


def require_classes(found: PixelSet, where: str, class_names: Sequence[str]) -> None:
    """Raise `DataError` if a trained network has other classes than these data."""
    if tuple(class_names) != found.class_names:
        raise DataError(
            f"{where}: the network's classes are {quoted(class_names)}, not {quoted(found.class_names)}"
        )


def _pairs(root: Path, part: str, found: PixelSet) -> Pairs:
    bad = found.bad
    pictures, truths = (os.path.normpath(root / name / part) for name in ("images", "masks"))
    masks: dict[str, str] = {}
    others = Listing()
    for path in others.add(list_image_files(truths)) if os.path.isdir(truths) else []:
        stem, suffix = os.path.splitext(os.path.relpath(path, truths))
        if suffix.lower() not in MASK_SUFFIXES:
            bad[path] = f"a mask must be a file of {', '.join(MASK_SUFFIXES)}: others change the values of pixels"
        elif stem in masks:
            bad[path] = f"is a second mask beside {os.path.basename(masks[stem])}"
        else:
            masks[stem] = path
    pairs, seen = [], set()
    for path in others.add(list_image_files(pictures)) if os.path.isdir(pictures) else []:
        stem = os.path.splitext(os.path.relpath(path, pictures))[0]
        if stem in seen:
            bad[path] = "is a second image of this name"
        elif stem in masks:
            pairs.append((path, masks[stem]))
        else:
            bad[path] = f"has no mask {os.path.join(os.path.relpath(truths, root), stem)}.png"
        seen.add(stem)
    for stem in masks.keys() - seen:
        bad[masks[stem]] = "has no image"
    if summary := others.summary(HINTS):
        found.notes.append(f"{os.path.relpath(pictures, root)}, {os.path.relpath(truths, root)}: {summary}")
    return pairs
