"""An explanation as one HTML page that needs nothing else: no script, no font, no other file."""

from pathlib import Path

from markupsafe import Markup

from ctxvision.explain import Contexts, Explanation, contextual_layers
from ctxvision.plots.picture import Picture

from .template import page_template

_ROWS = 30  # of the table of lost classes
_NO_FUNNEL = {
    "detection": "There is no class funnel here: a contextual backbone gives features and has no class head; the "
    "classes that its context weighs are its own, not the detector’s.",
    "segmentation": "There is no class funnel here: a contextual backbone gives features and has no class head; "
    "the classes that its context weighs are its own, not those of the pixels.",
    "video": "The class funnel is not drawn for clips: each frame has its own class sets.",
}


def render(explanation: Explanation) -> str:
    """Return the HTML page about an explanation."""
    task = explanation.request.network.task
    contextual = bool(contextual_layers(task.model))  # only then readers may look for a class funnel
    return page_template("explanation.html.j2").render(
        r=explanation.numbers,
        images=explanation.images,
        sections=explanation.sections,
        thing="video" if task.kind == "video" else "image",
        rows=_ROWS,
        present=_present(explanation),
        funnel_note=_NO_FUNNEL.get(task.kind, "") if contextual else "",
        drawing=_drawing,
        last_parts=_last_parts,
    )


def _present(explanation: Explanation) -> dict[str, bool]:
    """Return which topics of `ctxvision.pages.reading` the page has something of."""
    images = explanation.images
    funnel = any(image.funnel is not None for image in images)
    return {
        "grad-cam": any(cam is not None for image in images for cam in image.cams),
        "funnel": funnel,
        "classes": funnel,
        "offsets": any(image.offsets for image in images),
        "kernels": any(image.kernels for image in images),
        "contexts": any(isinstance(layer, Contexts) for image in images for layer in image.kernels),
    }


def _drawing(picture: Picture) -> Markup:
    # matplotlib escapes the names of classes, and page_element the description
    return Markup(picture.element)


def _last_parts(file: str) -> str:
    """Return the name of a file and of its folder, which is often the name of a class."""
    return "/".join(Path(file).parts[-2:])
