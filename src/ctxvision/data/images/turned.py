"""EXIF orientations against annotations: whether those are of the picture as it is stored or as it is shown."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Literal, TypeAlias

from ctxvision.data.files import open_regular

from .reading import DECODER_ERRORS, FORMATS, SIDEWAYS, open_picture, orientation_of

Exif: TypeAlias = Literal["auto", "apply", "ignore"]
EXIF: tuple[Exif, ...] = ("auto", "apply", "ignore")
Listed: TypeAlias = Sequence[tuple[str, tuple[int, int] | str]]
_LOOKED_AT = 1000  # headers of a set


def find_turned(listed: Listed, exif: Exif) -> tuple[bool, list[str]]:
    """Find out whether pictures were annotated as their EXIF orientations turn them, as far as their sizes tell.

    A picture on its side has another size when it is turned. Where those of a set that tell are all annotated as
    stored, the others are taken to be so too; else as turned, which is what browsers, OpenCV and annotation tools
    show. Headers of up to 1000 images are read.

    Args:
        listed: The path of each image, and the (width, height) that its annotations are for, or the path of its
            mask.
        exif: The treatment of images whose sizes do not tell: ``apply`` turns them, ``ignore`` does not, ``auto``
            does as the others of the set.

    Returns:
        Whether images whose sizes do not tell are to be turned; and the lines that a reader should know.
    """
    told: dict[bool, list[str]] = {True: [], False: []}
    untold: list[str] = []
    count = min(len(listed), _LOOKED_AT)
    looked = [listed[index * len(listed) // count] for index in range(count)]
    for name, annotated in looked:
        # whatever is wrong with a file, decoding will say
        with suppress(*DECODER_ERRORS):
            stored, upright, orientation = _sizes(name)
            if orientation == 1:
                continue
            size = _sizes(annotated)[1] if isinstance(annotated, str) else annotated
            if stored == upright:
                untold.append(name)
            elif size in (stored, upright):
                told[size == upright].append(name)
    turned = exif == "apply" or (exif == "auto" and (bool(told[True]) or not told[False]))
    of = f"of {len(looked)} images" + (" looked at" if len(looked) < len(listed) else "")
    return turned, list(_remarks(told[False], untold, turned, of))


def _remarks(stored: list[str], untold: list[str], turned: bool, of: str) -> Iterator[str]:
    if stored:
        yield (
            f"{len(stored)} {of} have the size that their annotations are for as they are stored, not as their "
            f"EXIF orientation turns them, and are not turned ({_first(stored)})"
        )
    if untold:
        how = "as it turns them" if turned else "as they are stored"
        other = "ignore" if turned else "apply"
        yield (
            f"{len(untold)} {of} have an EXIF orientation of which their size does not tell whether it was heeded "
            f"when they were annotated (upside down, mirrored or square: {_first(untold)}); they are taken {how}, "
            f"#exif={other} takes them the other way"
        )


def _first(names: list[str]) -> str:
    return names[0] + (", …" if len(names) > 1 else "")


def shown_size(path: str) -> tuple[int, int]:
    """Return the (width, height) of an image as it is shown, from its header; raises one of `DECODER_ERRORS`."""
    return _sizes(path)[1]


def _sizes(path: str) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Return the size of an image as it is stored and as it is shown, and its orientation, from its header."""
    with open_regular(path) as file, open_picture(file, FORMATS) as image:
        # the EXIF block of a PNG may come last, and looking for it would decode the image
        is_plain = image.format == "PNG" and not {"exif", "Raw profile type exif", "XML:com.adobe.xmp"} & set(
            image.info
        )
        orientation = 1 if is_plain else orientation_of(image)
        size = image.size
        swapped = size[::-1] if orientation >= SIDEWAYS else size
        # a TIFF has its turned size from the beginning
        return (swapped, size, orientation) if image.format == "TIFF" else (size, swapped, orientation)
