"""An explanation as one HTML page that needs nothing else: no script, no font, no other file."""

from pathlib import Path

from markupsafe import Markup

from ctxvision.explain.explanation import Explanation
from ctxvision.explain.pictures import Picture

from .template import page_template

_ROWS = 30  # of the table of lost classes


def render(made: Explanation) -> str:
    """Return the page."""
    return page_template("explain.html.j2").render(
        r=made.numbers,
        thumbnails=made.thumbnails,
        pixelated=made.pixelated,
        of_images=made.of_images,
        of_classes=made.of_classes,
        of_data=made.of_data,
        rows=_ROWS,
        drawing=_drawing,
        last_parts=_last_parts,
        wbr=Markup("<wbr>"),
    )


def _drawing(picture: Picture) -> Markup:
    # matplotlib escapes the names of classes, and _as_element the description
    return Markup(picture.element)


def _last_parts(file: str) -> str:
    """Return the name of a file and its folder, which often is a class."""
    return "/".join(Path(file).parts[-2:])
