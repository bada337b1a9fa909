"""Involution kernels and CoT attention as heat maps, and how CoT layers fuse their two contexts."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ctxvision.explain.kernels import Contexts, Kernels
from ctxvision.plots.palette import SHARES, SIGNED, Ink
from ctxvision.plots.picture import Picture, make_picture
from ctxvision.plots.pixels import Pixels, enlarged
from ctxvision.plots.style import WIDTH, bare, color_bar, in_backbone, new_figure, plain, spread

GROUPS = 4  # groups to draw, evenly spread
_PLACES = 5  # positions per side of a mosaic
_CHANNELS = 128  # of a layer that are drawn, evenly spread over their order


def sums_picture(layers: Sequence[Kernels], image: Pixels, name: str) -> Picture:
    """Draw the sum of each kernel at every position, one row per layer and one column per group.

    Args:
        layers: The kernels of at most four layers for one image.
        image: The image, RGB from 0 to 1, (H, W, 3).
        name: The name of the picture.
    """
    what = _what(layers[0])

    def draw(ink: Ink) -> Figure:
        figure = new_figure(WIDTH / (GROUPS + 1) * 1.25 * len(layers) * image.shape[0] / image.shape[1] + 0.7)
        axes = figure.subplots(len(layers), GROUPS + 1, squeeze=False)
        for place in axes.flat:
            place.set_visible(False)
        for row, layer in enumerate(layers):
            axes[row, 0].set_visible(True)
            axes[row, 0].imshow(enlarged(image, 96), interpolation="none")
            bare(axes[row, 0], ink, "input" if row == 0 else "")
            sums = layer.sums()[0]
            limit = np.abs(sums).max() or 1.0
            for column, group in enumerate(spread(len(sums), GROUPS)):
                place = axes[row, column + 1]
                place.set_visible(True)
                place.imshow(sums[group], cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="none")
                bare(place, ink, f"group {group + 1} of {len(sums)}")
                place.title.set_fontsize(8)
            axes[row, 0].set_ylabel(f"{in_backbone(layer.name)}\n±{limit:.2g}", color=ink.text, fontsize=8)
        color_bar(figure, axes, ink, SIGNED, -1, 1, "sum, share of the layer’s largest (± at the left)")
        return figure

    words = "; ".join(f"{layer.name}: {layer.kernels.shape[1]} groups" for layer in layers)
    return make_picture(
        draw,
        name,
        pixels=True,
        title=f"The {what} at every position",
        alt=f"Sums of the {what} by position; {words}",
        caption=f"The sum of each {what.removesuffix('s')} says what it makes of a constant neighbourhood; rows "
        "are layers, columns groups of channels.",
    )


def mosaic_picture(layer: Kernels, name: str) -> Picture:
    """Draw the kernels at up to 5 × 5 positions of up to four groups.

    Args:
        layer: The kernels of one layer for one image.
        name: The name of the picture.
    """
    what, k = _what(layer), layer.kernel[0]
    kernels = layer.kernels[0]
    groups = spread(len(kernels), GROUPS)
    limit = np.abs(kernels[groups]).max() or 1.0
    rows, columns = (spread(size, _PLACES) for size in kernels.shape[2:])

    def draw(ink: Ink) -> Figure:
        figure = new_figure(WIDTH / len(groups) * len(rows) / len(columns) + (0.95 if len(groups) > 2 else 0.8))
        axes = figure.subplots(1, len(groups), squeeze=False)[0]
        for place, group in zip(axes, groups, strict=True):
            tiles = kernels[group][:, rows][:, :, columns].reshape(k, k, len(rows), len(columns))
            place.imshow(mosaic(tiles), cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="none")
            bare(place, ink, f"group {group + 1} of {len(kernels)}")
        color_bar(figure, axes, ink, SIGNED, -limit, limit, f"weight of a tap, {in_backbone(layer.name)}")
        return figure

    return make_picture(
        draw,
        name,
        pixels=True,
        title=f"The {what} themselves",
        alt=f"{k} × {k} {what} of {layer.name} at {len(rows)} × {len(columns)} positions, {len(groups)} groups",
        caption=f"{k} × {k} taps at {len(rows)} × {len(columns)} of {kernels.shape[2]} × {kernels.shape[3]} "
        "positions, laid out as in the image.",
    )


def contexts_picture(layers: Sequence[Contexts], image: Pixels, name: str) -> Picture:
    """Draw the strengths of the static and the dynamic context at every position, one row per layer.

    Args:
        layers: The contexts of at most four CoT layers for one image.
        image: The image, RGB from 0 to 1, (H, W, 3).
        name: The name of the picture.
    """

    def draw(ink: Ink) -> Figure:
        figure = new_figure(WIDTH / 3.6 * len(layers) * image.shape[0] / image.shape[1] + 0.8)
        axes = figure.subplots(len(layers), 3, squeeze=False)
        for row, layer in enumerate(layers):
            both = (layer.static[0], layer.dynamic[0])
            highest = max(part.max() for part in both) or 1.0
            axes[row, 0].imshow(enlarged(image, 96), interpolation="none")
            for place, part in zip(axes[row, 1:], both, strict=True):
                place.imshow(part / highest, cmap=SHARES, vmin=0, vmax=1, interpolation="none")
            titles = ("input", "static context K1", "dynamic context K2") if row == 0 else ("", "", "")
            for place, title in zip(axes[row], titles, strict=True):
                bare(place, ink, title)
            axes[row, 0].set_ylabel(f"{in_backbone(layer.name)}\nup to {highest:.2g}", color=ink.text, fontsize=8)
        color_bar(
            figure, axes, ink, SHARES, 0, 1, "root mean square over the channels, share of the row’s highest"
        )
        return figure

    words = "; ".join(
        f"{layer.name}: static {np.sqrt((layer.static**2).mean()):.2g}, dynamic "
        f"{np.sqrt((layer.dynamic**2).mean()):.2g}"
        for layer in layers
    )
    return make_picture(
        draw,
        name,
        pixels=True,
        title="Static against dynamic context",
        alt=f"Strength of the two contexts; {words}",
        caption="Before the fusion weighs them. Static: a convolution’s view of the neighbourhood; dynamic: the "
        "values aggregated by attention.",
    )


def fusion_picture(layers: Sequence[Contexts], name: str) -> Picture:
    """Draw the weight that the fusion gives the dynamic context, for every channel of every CoT layer.

    Args:
        layers: The contexts of CoT layers for one image; each has a `Contexts.dynamic_share`.
        name: The name of the picture.
    """

    def draw(ink: Ink) -> Figure:
        figure = new_figure(1.0 + 0.24 * len(layers))
        axes = figure.add_subplot()
        for row, layer in enumerate(layers):
            shares = np.sort(_shares(layer)) * 100
            points = shares[spread(len(shares), _CHANNELS)]
            axes.scatter(points, row + _jitter(len(points)), s=4, color=ink.answer, alpha=0.45, linewidths=0)
            axes.plot([np.median(shares)] * 2, [row - 0.38, row + 0.38], color=ink.true, linewidth=2.4)
        axes.axvline(50, color=ink.soft, linewidth=0.8, linestyle="--")
        axes.set_yticks(range(len(layers)), [in_backbone(layer.name) for layer in layers])
        axes.set_ylim(len(layers) - 0.4, -0.6)
        axes.set_xlabel("weight of the dynamic context, %")
        plain(axes, ink, grid="x")
        return figure

    words = "; ".join(f"{layer.name} {np.median(_shares(layer)):.0%}" for layer in layers)
    return make_picture(
        draw,
        name,
        title="How the contexts are fused",
        alt=f"Median weight of the dynamic context: {words}",
        caption="One point per channel, at most 128 of a layer; the rest is static; bars: medians. Left of the "
        "dashed line the static context "
        "weighs more.",
    )


def mosaic(tiles: np.ndarray) -> np.ndarray:
    """Lay kernels (k, k, rows, columns) side by side, each at its position, with gaps of one NaN between them."""
    k, _, rows, columns = tiles.shape
    laid = np.full((rows, k + 1, columns, k + 1), np.nan, np.float32)
    laid[:, :k, :, :k] = tiles.transpose(2, 0, 3, 1)
    return laid.reshape(rows * (k + 1), columns * (k + 1))[:-1, :-1]


def _jitter(count: int) -> np.ndarray:
    """Spread points over the height of a row so that none hides another; equal counts give equal places."""
    return (np.arange(count) * 0.618 % 1 - 0.5) * 0.6


def _shares(layer: Contexts) -> np.ndarray:
    """Return the weight of the dynamic context in each channel, (C,), of a layer that fuses two contexts."""
    assert layer.dynamic_share is not None
    shares: np.ndarray = layer.dynamic_share[0]
    return shares


def _what(layer: Kernels) -> str:
    return "attention maps" if isinstance(layer, Contexts) else "involution kernels"
