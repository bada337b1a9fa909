"""Which emoji there are, who drew them, in which order they become classes, and how a drawing becomes pixels."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ctxvision._extras import explain_import
from ctxvision.data.error import DataError

BY_CODE_POINT = ("noto", "twemoji", "openmoji", "fluent-emoji-flat")
"""Artists whose packages say which code points a drawing is for; a class is what all of them drew."""
RUN = 10
"""Classes of one group that follow each other."""
WELL_DRAWN = 6
"""Artists of a class of the first tier."""

_SKIN = re.compile("1f3f[b-f]")
_IDS = re.compile(r"svgID\w+")  # numbered anew by whoever packs
_AFTER_THE_NOUN = re.compile(
    "-(?:with|without|of|in|on|over|behind|at|to|and|facing|pointing|pointed|tilted|curving|exhaling|savoring|"
    "blowing|holding|playing|raising)(?:-|$)"
)


class Emoji(NamedTuple):
    """A class: a sequence of code points without skin tone."""

    code: str
    """Code points in hexadecimal, joined by dashes: ``1f600``."""
    name: str
    """The first artist's name for it: ``grinning-face``."""
    icons: Mapping[str, str]
    """The name of the drawing in each artist's package that has one."""


def find_emoji(packages: Mapping[str, Mapping[str, Any]]) -> list[Emoji]:
    """Return the classes, in the order in which a smaller set takes them.

    A class is a sequence of code points without skin tone that all of `BY_CODE_POINT` drew. The other artists'
    packages know no code points; their drawings are found by name, dashes aside. Of emoji that an artist of
    `BY_CODE_POINT` drew alike only the first by code point stays, since no network could tell them apart.

    The order favours groups of alike classes. The group of a class is the noun of its name: the last word before
    the first preposition or participle, so that ``grinning-face-with-smiling-eyes`` is a face. First come classes
    that six artists or more drew, then the others. Within either tier the groups, the largest first, give runs of
    ten classes in turn, by the number of artists, then by code point: first ten of every group, then the next ten
    of those that have more. Smaller sets are parts of larger ones.

    Args:
        packages: The contents of the packages, see `open_packages`.

    Raises:
        DataError: They share no emoji.
    """
    chars = [{c: n for c, n in packages[a]["chars"].items() if not _SKIN.search(c)} for a in BY_CODE_POINT]
    shared = sorted(
        set.intersection(*map(set, chars)), key=lambda code: [int(part, 16) for part in code.split("-")]
    )
    if not shared:
        raise DataError(f"emoji: the packages {', '.join(BY_CODE_POINT)} share no code point")
    by_name = {
        artist: {name.replace("-", ""): name for name in (*icons.get("aliases", {}), *icons["icons"])}
        for artist, icons in ((a, p["icons"]) for a, p in packages.items() if a not in BY_CODE_POINT)
    }
    found, seen = [], set[tuple[str, str]]()
    for code in shared:
        icons = {artist: names[code] for artist, names in zip(BY_CODE_POINT, chars, strict=True)}
        drawn = {(artist, _IDS.sub("", svg(packages[artist]["icons"], name, 1))) for artist, name in icons.items()}
        if not drawn.isdisjoint(seen):
            continue
        seen |= drawn
        spellings = [name.replace("-", "") for name in icons.values()]
        for artist, names in by_name.items():
            known = next((names[spelling] for spelling in spellings if spelling in names), None)
            icons |= {artist: known} if known else {}
        found.append(Emoji(code, icons[BY_CODE_POINT[0]], icons))
    well_drawn = [e for e in found if len(e.icons) >= WELL_DRAWN]
    return [*_in_runs(well_drawn), *_in_runs(e for e in found if len(e.icons) < WELL_DRAWN)]


def _in_runs(emoji: Iterable[Emoji]) -> list[Emoji]:
    groups: dict[str, list[Emoji]] = defaultdict(list)
    for one in emoji:
        groups[_AFTER_THE_NOUN.split(one.name)[0].split("-")[-1]].append(one)
    placed = []
    for noun, members in groups.items():
        members.sort(key=lambda one: -len(one.icons))  # stable: by code point where alike
        placed += [(place // RUN, -len(members), noun, place, one) for place, one in enumerate(members)]
    return [one for *_, one in sorted(placed, key=lambda entry: entry[:4])]


def svg(icons: Mapping[str, Any], name: str, size: int) -> str:
    """Return a drawing as an SVG file of ``size`` × ``size`` pixels, the whole of it in the middle.

    Args:
        icons: The contents of ``icons.json``: ``icons`` and ``aliases`` by name, common ``width`` and ``height``.
        name: The name of an icon or an alias.
        size: The height and width in pixels.

    Raises:
        DataError: There is no such icon, or an alias turns it in a way that is not known.
    """
    flipped, aliases, asked = False, icons.get("aliases", {}), name
    for _ in range(8):  # aliases of aliases
        if name in icons["icons"]:
            break
        alias = aliases.get(name, {})
        if not alias or not alias.keys() <= {"parent", "hFlip"}:
            raise DataError(f"emoji: no drawing {asked!r}, or one that is turned: {dict(alias)}")
        name, flipped = alias["parent"], flipped != alias.get("hFlip", False)
    else:
        raise DataError(f"emoji: the aliases of {asked!r} lead nowhere")
    icon = icons["icons"][name]
    width, height = (icon.get(side) or icons.get(side) or 16 for side in ("width", "height"))
    body = f'<g transform="translate({width} 0) scale(-1 1)">{icon["body"]}</g>' if flipped else icon["body"]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{size}" '
        f'height="{size}" viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{body}</svg>'
    )


def render(drawing: str) -> bytes:
    """Return the PNG file of an SVG file; what is not drawn is transparent.

    Raises:
        DataError: The renderer is not installed, or refuses the drawing.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise DataError(f"emoji: {explain_import(error) or error}") from error
    try:
        return bytes(resvg_py.svg_to_bytes(svg_string=drawing, skip_system_fonts=True))
    except ValueError as error:
        raise DataError(f"emoji: a drawing cannot be rendered ({error})") from error


def credits_text(packages: Mapping[str, Mapping[str, Any]], versions: Mapping[str, str], size: int) -> str:
    """Return what the licences ask for: who drew what, under which licence, and what was changed.

    Args:
        packages: The contents of the packages.
        versions: The version of each package.
        size: The height and width of the rendered drawings in pixels.
    """
    lines = []
    for artist, package in packages.items():
        info = package["info"]
        author, licence = info["author"], info["license"]
        lines.append(
            f"- {artist}: {info['name']}, by {author['name']} ({author.get('url', 'no address given')}), "
            f"licence {licence['title']} ({licence.get('url', 'no address given')}), "
            f"from @iconify-json/{artist} {versions[artist]}"
        )
    return (
        "# Credits\n\nThe drawings in this folder are the work of the artists below, under their licences.\n"
        "Whoever passes them on must name the artists, and pass on those under CC BY-SA under the same licence.\n"
        f"Changes: drawings without skin tones only, rendered from SVG to PNG at {size} x {size} pixels.\n\n"
        + "\n".join(lines)
        + "\n"
    )
