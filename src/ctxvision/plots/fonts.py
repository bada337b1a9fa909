"""Fonts for class names in any script: the font of matplotlib, and fonts of the system."""

import logging
from collections.abc import Iterable
from functools import cache

from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

_log = logging.getLogger(__name__)
_said: set[str] = set()
_SHOWN = 8  # characters in a warning

OURS = "DejaVu Sans"  # comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew and more
# one family of each system is enough for Chinese, Japanese and Korean; the others complete it
OTHERS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "Source Han Sans SC",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "PingFang SC",
    "PingFang HK",
    "Hiragino Sans",
    "Hiragino Sans GB",
    "Apple SD Gothic Neo",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "IPAGothic",
    "NanumGothic",
    "Noto Sans Thai",
    "Noto Sans Devanagari",
    "Arial Unicode MS",
)


def families() -> list[str]:
    """Return fonts for matplotlib's ``font.family``; the first font that has a character draws it."""
    return [OURS, *_installed()]


def font_for(text: str, size: float) -> ImageFont.FreeTypeFont:
    """Open the first font that has all characters of a text, or else the font that has most of them.

    Args:
        text: The text to draw, in any script.
        size: The size of the font in pixels.
    """
    say_what_is_missing([text])
    needed = _needed(text)
    family = min(families(), key=lambda family: len(needed - _characters(family)))
    return ImageFont.truetype(_file(family), size)


def say_what_is_missing(texts: Iterable[str]) -> None:
    """Warn, once for each character, about characters of texts that no font has."""
    needed = _needed("".join(texts))
    missing = {chr(code) for code in needed.difference(*map(_characters, families()))} - _said
    if missing:
        _said.update(missing)
        shown = " ".join(sorted(missing)[:_SHOWN]) + (" …" if len(missing) > _SHOWN else "")
        _log.warning(
            "no font found for %s: pictures show boxes; fonts such as Noto Sans CJK or Noto Sans Thai mend it",
            shown,
        )


def _needed(text: str) -> set[int]:
    """Return the codes of the visible characters of a text, without line breaks and joiners."""
    return {ord(character) for character in text if character.isprintable()}


def _installed() -> list[str]:
    found = {font.name for font in fontManager.ttflist}
    return [family for family in OTHERS if family in found]


def _file(family: str) -> str:
    return str(fontManager.findfont(family, fallback_to_default=False))


@cache
def _characters(family: str) -> frozenset[int]:
    return frozenset(FT2Font(_file(family)).get_charmap())
