"""An explanation of a detector, a segmentation network or a video network as one HTML page without script."""

from pathlib import Path

from markupsafe import Markup

from ctxvision.explain.parts_explanation import PartsExplanation
from ctxvision.explain.pictures import Picture

from .template import page_template

_NO_FUNNEL = {
    "detection": "There is no class funnel here: a contextual backbone gives features and has no class head; the "
    "classes that its context weighs are its own, not the detector’s.",
    "segmentation": "There is no class funnel here: a contextual backbone gives features and has no class head; "
    "the classes that its context weighs are its own, not those of the pixels.",
    "video": "The class funnel is not drawn for clips: each frame has its own class sets.",
}


def render(made: PartsExplanation, *, contextual: bool) -> str:
    """Return the page.

    Args:
        made: what it shows.
        contextual: whether readers may look for a class funnel.
    """
    numbers = made.numbers
    return page_template("parts.html.j2").render(
        r=numbers,
        samples=made.samples,
        thing="video" if numbers["task"] == "video" else "image",
        funnel_note=_NO_FUNNEL[numbers["task"]] if contextual else "",
        drawing=_drawing,
        last_parts=lambda file: "/".join(Path(file).parts[-2:]),
        wbr=Markup("<wbr>"),
    )


def _drawing(picture: Picture) -> Markup:
    # matplotlib escapes the names of classes, and _as_element the description
    return Markup(picture.element)
