"""Figures of layers that depend on the image: kernels and attention, fused contexts, places that taps read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ctxvision.explain.kernels import Contexts, Kernels
from ctxvision.explain.offsets import ClassOffsets, ContextualOffsets
from ctxvision.plots.palette import HEAT, SHARES, SIGNED, Ink
from ctxvision.plots.picture import Picture, make_picture
from ctxvision.plots.pixels import Pixels, enlarged
from ctxvision.plots.style import FEW, WIDTH, bare, color_bar, in_backbone, new_figure, plain, short, spread

GROUPS = 4  # groups whose kernels are drawn, evenly spread
_SUMS = 3  # groups whose sums are drawn
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

    # a layer of fewer groups than the others would leave the end of its row empty
    count = min(_SUMS, max(2, min(layer.kernels.shape[1] for layer in layers)))

    def draw(ink: Ink) -> Figure:
        figure = new_figure(len(layers) * (WIDTH / (count + 1) * image.shape[0] / image.shape[1] + 0.3) + 0.7)
        axes = figure.subplots(len(layers), count + 1, squeeze=False)
        for row, layer in enumerate(layers):
            axes[row, 0].imshow(enlarged(image, 96))
            bare(axes[row, 0], ink, "input" if row == 0 else "")
            sums = layer.sums()[0]
            limit = np.abs(sums).max() or 1.0
            for place, group in zip(axes[row, 1:], spread(len(sums), count), strict=False):
                place.imshow(sums[group], cmap=SIGNED, vmin=-limit, vmax=limit)
                bare(place, ink, f"group {group + 1} of {len(sums)}")
                place.title.set_fontsize(8)
            for place in axes[row, 1 + len(sums) :]:
                place.remove()
            axes[row, 0].set_ylabel(f"{in_backbone(layer.name)}\n±{limit:.2g}", color=ink.text, fontsize=8)
        color_bar(figure, figure.axes, ink, SIGNED, -1, 1, "sum, share of the layer’s largest (± at the left)")
        return figure

    words = "; ".join(f"{layer.name}: {layer.kernels.shape[1]} groups" for layer in layers)
    return make_picture(
        draw,
        name,
        pixels=True,
        title=f"The {what} at every position",
        alt=f"Sums of the {what} by position; {words}",
        what=f"How the network treats every place of the image: the sum of the {what.removesuffix('s')} that it "
        "made for the place; rows are layers, columns are groups of channels.",
        how="Places of one colour are treated alike; violet kernels pass on what they see, brown ones turn its "
        "sign round, and white ones look for differences only.",
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
        beside = 2 if len(groups) == 4 else len(groups)
        lines = len(groups) // beside
        figure = new_figure(lines * (WIDTH / beside * len(rows) / len(columns) + 0.3) + 0.6)
        axes = figure.subplots(lines, beside, squeeze=False)
        for place, group in zip(axes.flat, groups, strict=True):
            tiles = kernels[group][:, rows][:, :, columns].reshape(k, k, len(rows), len(columns))
            place.imshow(mosaic(tiles), cmap=SIGNED, vmin=-limit, vmax=limit)
            # the gaps, because weights near zero are as light as the page
            place.add_patch(Rectangle((0, 0), 1, 1, transform=place.transAxes, color=ink.line, zorder=-1))
            bare(place, ink, f"group {group + 1} of {len(kernels)}")
        color_bar(figure, axes, ink, SIGNED, -limit, limit, f"weight of a tap, {in_backbone(layer.name)}")
        return figure

    return make_picture(
        draw,
        name,
        pixels=True,
        title=f"The {what} themselves",
        alt=f"{k} × {k} {what} of {layer.name} at {len(rows)} × {len(columns)} positions, {len(groups)} groups",
        what=f"The {what} of {k} × {k} weights that one layer made at {len(rows)} × {len(columns)} of its "
        f"{kernels.shape[2]} × {kernels.shape[3]} places, laid out as these places lie in the image.",
        where=f"At {layer.name}.",
        how="Each small square says how a place mixes its neighbours: violet adds a neighbour, brown subtracts "
        "it; where squares differ, the network treats the places differently.",
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
            axes[row, 0].imshow(enlarged(image, 96))
            for place, part in zip(axes[row, 1:], both, strict=True):
                place.imshow(part / highest, cmap=SHARES, vmin=0, vmax=1)
            titles = ("input", "static context K1", "dynamic context K2") if row == 0 else ("", "", "")
            for place, title in zip(axes[row], titles, strict=True):
                bare(place, ink, title)
            axes[row, 0].set_ylabel(f"{in_backbone(layer.name)}\nup to {highest:.2g}", color=ink.text, fontsize=8)
        color_bar(figure, axes, ink, SHARES, 0, 1, "strength, share of the row’s highest")
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
        what="How strongly each place answers to its fixed surroundings (static context, a convolution) and to "
        "what attention gathers for this image (dynamic context), as the root mean square over the channels.",
        how="Yellow is strong and blue is weak, on one scale for both pictures of a row; where the right one is "
        "brighter, attention adds more there.",
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
        what=f"How much weight each CoT layer gives to attention; one point is one channel, at most {_CHANNELS} "
        "of a layer, and the upright bar is the median.",
        how="Right of the dashed line attention weighs more, left of it the fixed surroundings do; spread points "
        "mean that the channels differ.",
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


_MARKERS = ("o", "s", "^", "D")


def taps_picture(
    layers: Sequence[tuple[int, ContextualOffsets]], image: Pixels, at: tuple[float, float], name: str
) -> Picture:
    """Draw where the taps of one output position read, and how far the taps move at every position.

    Args:
        layers: Pairs, one for each of at most four layers, of the number of the layer's stage and its offsets for
            one image.
        image: The image, RGB from 0 to 1, (H, W, 3).
        at: The pixel (y, x) whose nearest output position is shown.
        name: The name of the picture.
    """
    height, width = image.shape[:2]
    farthest = max(float(found.sampling_offset.mean(1).max()) for _, found in layers) or 1.0

    def draw(ink: Ink) -> Figure:
        figure = new_figure(len(layers) * (WIDTH / 2 * height / width + 0.4) + 0.7)
        axes = figure.subplots(len(layers), 2, squeeze=False)
        for (place, lengths_place), (stage, found) in zip(axes, layers, strict=True):
            _show_taps(place, found, image, at, ink, ink.stages[stage - 1])
            bare(place, ink, f"stage {stage}: taps of +")
            lengths = found.sampling_offset[0].mean(0)
            title = f"{lengths.shape[0]} × {lengths.shape[1]} place{'s' if lengths.size > 1 else ''}"
            if found.still or lengths.size == 1:  # one colour all over says nothing
                words = "no tap moves" if found.still else f"taps move by\n{float(lengths.mean()):.2g} pixels"
                lengths_place.set_box_aspect(height / width)
                lengths_place.text(0.5, 0.5, words, transform=lengths_place.transAxes, color=ink.text, ha="center")
            else:
                extent = (-0.5, width - 0.5, height - 0.5, -0.5)
                lengths_place.imshow(lengths, cmap=HEAT, vmin=0, vmax=farthest, extent=extent)
            bare(lengths_place, ink, title)
        color_bar(figure, axes, ink, HEAT, 0, farthest, "taps moved by, pixels of the image")
        return figure

    words = "; ".join(
        f"stage {stage}: {found.sampling_offset.mean():.2f} pixels on average, "
        f"at most {found.sampling_offset.max():.1f}"
        for stage, found in layers
    )
    return make_picture(
        draw,
        name,
        pixels=True,
        title="Where contextual convolutions read",
        alt=f"Distance of taps from the grid; {words}",
        what="Which places of the image the network reads for the place at +, and how far it moves its taps "
        "everywhere.",
        where=f"At {', '.join(found.name for _, found in layers)}.",
        how="Left, hollow dots are where a plain convolution would read and filled dots, joined to them, where "
        "this one reads (outside the frame there are zeros); right, yellow places move their taps most.",
    )


def _show_taps(
    place: Axes, found: ContextualOffsets, image: Pixels, at: tuple[float, float], ink: Ink, color: str
) -> None:
    """Draw the taps of the output position nearest to a pixel (y, x) over the image in grey."""
    height, width = image.shape[:2]
    grey = 0.35 + 0.65 * np.repeat(image.mean(2, keepdims=True), 3, 2)
    place.imshow(enlarged(grey), extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    row, col = nearest_position(found, at)
    regular, sampled = found.regular[:, row, col], found.sampled[0, :, row, col]
    for start, end in zip(regular, sampled, strict=True):
        place.plot([start[1], end[1]], [start[0], end[0]], color=color, linewidth=0.7)
    y, x = regular.T
    place.scatter(x, y, s=5, facecolors="none", edgecolors=ink.soft, linewidths=0.6, zorder=2)
    place.scatter(x.mean(), y.mean(), s=70, marker="+", color=ink.true, linewidths=1.6, zorder=4)
    y, x = sampled.T
    if not found.still:
        place.scatter(x, y, s=7, color=color, zorder=3)
    place.add_patch(Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor=ink.text, linewidth=0.8))
    every = np.concatenate([regular, sampled, [[0, 0], [height - 1, width - 1]]])
    (low_y, low_x), (high_y, high_x) = every.min(0) - 2, every.max(0) + 2
    place.set_xlim(low_x, high_x)
    place.set_ylim(high_y, low_y)


def nearest_position(found: ContextualOffsets, at: tuple[float, float]) -> tuple[int, int]:
    """Return the output position (row, column) whose taps are centred nearest to a pixel (y, x)."""
    middle = found.regular.mean(0)  # (H', W', 2)
    distance = np.square(middle - np.array(at)).sum(-1)
    row, column = np.unravel_index(distance.argmin(), distance.shape)
    return int(row), int(column)


def class_offsets_picture(
    layers: Sequence[tuple[int, ClassOffsets]], names: Sequence[str], name: str = "bends_by_class"
) -> Picture:
    """Draw the mean offsets for each predicted class; of many classes, those that differ most from the mean.

    Args:
        layers: Pairs, one for each of at most four layers, of the number of the layer's stage and its mean offsets
            by class.
        names: The names of the C classes.
        name: The name of the picture.
    """
    lengths = np.stack([found.sampling_offset for _, found in layers])  # (L, C)
    present = np.flatnonzero(layers[0][1].images)
    if len(present) > FEW:
        apart = np.abs(lengths[:, present] / lengths[:, present].mean(1, keepdims=True) - 1).sum(0)
        present = np.sort(present[np.argsort(-apart, kind="stable")[:FEW]])

    def draw(ink: Ink) -> Figure:
        figure = new_figure(max(2.2, 1.1 + 0.21 * len(present)))
        left, right = figure.subplots(1, 2, sharey=True)
        rows = np.arange(len(present))
        for number, (stage, found) in enumerate(layers):
            style: dict[str, Any] = {"color": ink.stages[stage - 1], "marker": _MARKERS[number], "markersize": 5}
            left.plot(found.sampling_offset[present], rows, label=f"stage {stage}", linestyle="none", **style)
            right.plot(found.weight_offset[present] * 100, rows, linestyle="none", **style)
        left.set_yticks(rows, [short(names[c], 14) for c in present.tolist()])
        left.invert_yaxis()
        left.set_ylabel("predicted class")
        left.set_xlabel("taps moved by, pixels")
        right.set_xlabel("kernel changed by, %")
        for axes in (left, right):
            axes.set_xlim(left=0)
            plain(axes, ink)
        figure.legend(loc="outside upper center", ncols=4, frameon=False, labelcolor=ink.text)
        return figure

    words = "; ".join(
        f"stage {stage}: taps {np.nanmin(found.sampling_offset):.2f} to "
        f"{np.nanmax(found.sampling_offset):.2f} pixels"
        for stage, found in layers
    )
    images = int(layers[0][1].images.sum())
    return make_picture(
        draw,
        name,
        title="Offsets by class",
        alt=f"Offsets by predicted class; {words}",
        what="How far the network moves its taps (left, the length of Δp) and how much it changes its kernels "
        f"(right, the norm of Δw beside that of the kernel) for each class; means over {images:,} images.",
        how="One row per predicted class and one mark per stage; classes whose marks lie apart are read in "
        "different ways, and 100 % means a change as large as the kernel itself.",
    )
