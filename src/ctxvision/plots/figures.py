"""Pictures of a report, ready to be part of a page: curves as SVG, images as data URIs."""

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence

import torch
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from ctxvision.foreign import visible

# matplotlib cannot draw in the colours of the page: stand-ins, replaced in its SVG
_COLOURS = {
    "#010101": "currentColor",
    "#010102": "var(--line)",
    "#010103": "var(--blue)",
    "#010104": "var(--orange)",
}
_TEXT, _GRID, _BLUE, _ORANGE = _COLOURS
_STYLES = (
    {"color": _BLUE, "marker": "o"},
    {"color": _ORANGE, "marker": "s", "linestyle": "--"},
    {"color": _TEXT, "marker": "^", "linestyle": "-."},
    {"color": _BLUE, "marker": "D", "linestyle": ":"},
)


def curve(curves: Mapping[str, Sequence[float | None]], label: str, name: str, *, percent: bool = False) -> str:
    """Draw at most four curves over epochs 1, 2, … as an SVG element in the page's font and colours.

    The curves carry their names and differ in line and marker, not by colour alone.

    Args:
        curves: values by name; gaps are ``None``.
        label: what the picture shows, for readers who do not see it.
        name: a word that is unique in the page, for the ids inside.
        percent: show 0.5 as 50 %.
    """
    options = {"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False, "font.size": 11}
    with rc_context(options):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for (title, values), style in zip(curves.items(), _STYLES, strict=False):
            heights = [float("nan") if v is None else v * (100 if percent else 1) for v in values]
            size = 4 if len(values) <= 40 else 0
            axes.plot(range(1, len(values) + 1), heights, label=title, linewidth=2, markersize=size, **style)
        axes.set_xlabel("epoch", color=_TEXT)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter("{x:g} %" if percent else "{x:g}")
        axes.grid(color=_GRID, linewidth=0.8)
        axes.tick_params(colors=_GRID, labelcolor=_TEXT)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_GRID)
        if len(curves) > 1:
            axes.legend(frameon=False, labelcolor=_TEXT)
        return _as_element(figure, label, name)


def _as_element(figure: Figure, label: str, name: str) -> str:
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    file = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(file, metadata=no_metadata)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| (width|height)="[\d.]+pt"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'id="|href="#|url\(#', lambda match: f"{match[0]}{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for stand_in, colour in _COLOURS.items():
        svg = svg.replace(stand_in, colour)
    # matplotlib escapes what XML has a meaning for, not what it cannot hold
    svg = visible(svg, lines=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(visible(label))}"', 1)


def thumbnail(image: Tensor, mean: Sequence[float], std: Sequence[float], size: int = 160) -> str:
    """Turn a normalised image (C, H, W) into a data URI, at most ``size`` pixels wide and high.

    Small images become PNG without any loss, larger ones JPEG.
    """
    scale, shift = (
        torch.tensor(values, dtype=torch.float32, device="cpu").view(-1, 1, 1) for values in (std, mean)
    )
    pixels = (image.float() * scale + shift).clamp(0, 1).mul(255).round().to(torch.uint8)
    picture = Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())
    kind = "png" if is_small(image) else "jpeg"
    picture.thumbnail((size, size))
    file = io.BytesIO()
    picture.save(file, kind, **({"optimize": True} if kind == "png" else {"quality": 85}))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def is_small(image: Tensor) -> bool:
    """Tell whether an image (C, H, W) has so few pixels that a reader wants to see each of them."""
    return max(image.shape[1:]) <= 64
