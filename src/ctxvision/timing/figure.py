"""The rows as a figure: images per second with quartiles, latency from median to 99th percentile."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from ctxvision.foreign import visible
from ctxvision.plots.palette import PRINTED
from ctxvision.plots.style import plain, settings
from ctxvision.runs import BEST

Row = Mapping[str, Any]
# Okabe and Ito, 2008: told apart with any colour vision
_COLORS = {"torch": "#0072B2", "compile": "#D55E00", "onnx": "#009E73"}
_SIZES = dict.fromkeys(("font.size", "axes.labelsize", "xtick.labelsize", "ytick.labelsize"), 9)


def draw(rows: Sequence[Row], format: str) -> bytes:
    """Draw rows that were timed, in their order, from top to bottom.

    Args:
        rows: Rows from `compare`.
        format: Format of the picture, ``"svg"``, ``"png"`` or ``"pdf"``.
    """
    # a gap where the batch changes
    places = [n + 0.6 * (len({row["batch"] for row in rows[: n + 1]}) - 1) for n in range(len(rows))]
    names = _short_names(rows)
    labels = [_label(row, names, places[-1] > len(rows) - 1) for row in rows]
    height = 1.3 + 0.32 * (places[-1] + 1)
    with rc_context(settings("ctxvision") | _SIZES):
        figure = Figure(figsize=(8.6, height))
        speed, latency = figure.subplots(1, 2, sharey=True)
        left = min(0.45, 0.02 + 0.0085 * max(map(len, labels)))
        figure.subplots_adjust(left, 0.5 / height, 0.97, 1 - 0.66 / height, wspace=0.12)
        _draw_speed(speed, rows, places)
        speed.set_yticks(places, labels)
        speed.set_ylim(places[-1] + 0.6, -0.6)
        _draw_latency(latency, rows, places)
        for axes in (speed, latency):
            plain(axes, PRINTED, grid="x")
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
        peers = [row["against"] for row in rows if row["against"]]
        title = "Inference" + (f"; ×: times as fast as {visible(names[peers[0]])}" if peers else "")
        figure.text(0.02, 1 - 0.12 / height, title, va="top", fontsize=11, weight="bold", color=PRINTED.text)
        figure.text(0.02, 1 - 0.36 / height, _where(rows), va="top", fontsize=7.5, color=PRINTED.soft)
        data = io.BytesIO()
        # no date inside: the same rows give the same file
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(format)
        figure.savefig(data, format=format, dpi=160, metadata=metadata)
    return data.getvalue()


def _draw_speed(axes: Axes, rows: Sequence[Row], places: Sequence[float]) -> None:
    values = [row["images_s"] for row in rows]
    axes.barh(places, values, color=[_COLORS[row["runner"]] for row in rows], height=0.62)
    below = [value - row["images_s_q1"] for value, row in zip(values, rows, strict=True)]
    above = [row["images_s_q3"] - value for value, row in zip(values, rows, strict=True)]
    axes.errorbar(values, places, xerr=[below, above], fmt="none", ecolor=PRINTED.text, elinewidth=0.9, capsize=2)
    for place, row in zip(places, rows, strict=True):
        text = f"{row['images_s']:.3g}" if row["images_s"] < 1000 else f"{row['images_s']:.0f}"
        if row["ratio"] is not None:
            text += f"  {row['ratio']:.2f} ×"
        end = (row["images_s_q3"], place)
        axes.annotate(text, end, (5, 0), textcoords="offset points", va="center", fontsize=7.5, color=PRINTED.text)
    axes.set_xlim(0, max(row["images_s_q3"] for row in rows) * 1.32)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("images per second (median, quartiles)")


def _draw_latency(axes: Axes, rows: Sequence[Row], places: Sequence[float]) -> None:
    for place, row in zip(places, rows, strict=True):
        color = _COLORS[row["runner"]]
        axes.plot([row["p50_ms"], row["p99_ms"]], [place, place], "-", color=color, linewidth=1.6)
        axes.plot(row["p50_ms"], place, "o", color=color, markersize=5)
        axes.plot(row["p90_ms"], place, "|", color=color, markersize=8, markeredgewidth=1.6)
        axes.plot(row["p99_ms"], place, "|", color=color, markersize=5, markeredgewidth=1.6)
    if max(row["p99_ms"] for row in rows) > 20 * min(row["p50_ms"] for row in rows):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, max(row["p99_ms"] for row in rows) * 1.05)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("ms for a batch (median, 90th, 99th percentile)")


def _label(row: Row, names: Mapping[str, str], with_batch: bool) -> str:
    runner = {"compile": ", compiled", "onnx": ", onnxruntime"}.get(row["runner"], "")
    return f"{visible(names[row['model']])}{runner}" + (f", batch {row['batch']}" if with_batch else "")


def _short_names(rows: Sequence[Row]) -> dict[str, str]:
    """Shorten paths to as many of their last parts as tell them apart; runs are called by their folder."""
    parts = {str(row["model"]): str(row["model"]).removesuffix(f"/{BEST}").split("/") for row in rows}
    for length in range(1, max(map(len, parts.values())) + 1):
        names = {model: "/".join(path[-length:]) for model, path in parts.items()}
        if len(set(names.values())) == len(names):
            return names
    return {model: model for model in parts}


def _where(rows: Sequence[Row]) -> str:
    row = rows[0]
    batches = ", ".join(map(str, dict.fromkeys(row["batch"] for row in rows)))
    sizes = ", ".join(map(str, dict.fromkeys(row["size"] for row in rows)))
    threads = f", {row['threads']} thread{'s' if row['threads'] > 1 else ''}" if row["threads"] else ""
    return f"{row['device']}{threads}, {row['dtype']}, batch {batches}, {sizes} px, torch {row['torch']}"
