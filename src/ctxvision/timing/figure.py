"""The rows as a figure: images per second with quartiles, latency from median to 99th percentile."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

_INK, _FAINT, _GRID = "#222222", "#666666", "#e6e6e6"
# Okabe and Ito, 2008: told apart with any colour vision
_COLORS = {"torch": "#0072B2", "compile": "#D55E00", "onnx": "#009E73"}
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": _GRID,
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "ctxvision",
}


def draw(rows: Sequence[Mapping[str, Any]], format: str) -> bytes:
    """Draw rows that were timed, in their order, from top to bottom.

    Args:
        rows: of `compare`.
        format: ``"svg"``, ``"png"`` or ``"pdf"``.
    """
    first = rows[0]
    places = list(range(len(rows)))
    batches = {row["batch"] for row in rows}
    colors = [_COLORS[row["runner"]] for row in rows]
    with matplotlib.rc_context(_STYLE):
        height = 1.5 + 0.32 * len(rows)
        figure = Figure(figsize=(8.6, height))
        speed, latency = figure.subplots(1, 2, sharey=True)
        longest = max(len(_label(row, len(batches) > 1)) for row in rows)
        figure.subplots_adjust(
            left=min(0.45, 0.02 + 0.0085 * longest),
            right=0.97,
            top=1 - 0.72 / height,
            bottom=0.5 / height,
            wspace=0.1,
        )
        values = [row["images_s"] for row in rows]
        speed.barh(places, values, color=colors, height=0.62)
        quartiles = [
            [value - row["images_s_q1"] for value, row in zip(values, rows, strict=True)],
            [row["images_s_q3"] - value for value, row in zip(values, rows, strict=True)],
        ]
        speed.errorbar(values, places, xerr=quartiles, fmt="none", ecolor=_INK, elinewidth=0.9, capsize=2)
        for place, row in zip(places, rows, strict=True):
            ratio = "" if row["ratio"] is None else f"  {row['ratio']:.2f} ×"
            speed.annotate(
                f"{row['images_s']:.3g}{ratio}" if row["images_s"] < 1000 else f"{row['images_s']:.0f}{ratio}",
                (row["images_s_q3"], place), (5, 0), textcoords="offset points", va="center", fontsize=7.5, color=_INK,
            )  # fmt: skip
        speed.set_xlim(0, max(row["images_s_q3"] for row in rows) * 1.32)
        speed.set_yticks(places, [_label(row, len(batches) > 1) for row in rows])
        speed.tick_params(axis="y", length=0)
        speed.invert_yaxis()
        speed.xaxis.set_major_locator(MaxNLocator(5))
        speed.set_xlabel("images per second (median, quartiles)")
        for place, row, color in zip(places, rows, colors, strict=True):
            latency.plot([row["p50_ms"], row["p99_ms"]], [place, place], "-", color=color, linewidth=1.6)
            latency.plot(row["p50_ms"], place, "o", color=color, markersize=5)
            latency.plot(row["p90_ms"], place, "|", color=color, markersize=8, markeredgewidth=1.6)
            latency.plot(row["p99_ms"], place, "|", color=color, markersize=5, markeredgewidth=1.6)
        latency.set_xscale("log")
        latency.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        latency.xaxis.set_minor_formatter(NullFormatter() if _decades(rows) else FuncFormatter(_some))
        latency.tick_params(axis="y", length=0)
        latency.set_xlabel("ms for a batch: ● median  | 90th and 99th percentile")
        against = f", × against {first['against']}" if any(row["against"] for row in rows) else ""
        for row in rows:
            against = f", × against {row['against']}" if row["against"] else against
        figure.text(
            0.02, 1 - 0.14 / height, f"Inference{against}", fontsize=11, weight="bold", color=_INK, va="top"
        )
        figure.text(0.02, 1 - 0.4 / height, _where(rows), fontsize=7.5, color=_FAINT, va="top")
        data = io.BytesIO()
        metadata = {"Date": None} if format == "svg" else {"CreationDate": None} if format == "pdf" else None
        figure.savefig(data, format=format, dpi=160, metadata=metadata)
    return data.getvalue()


def _label(row: Mapping[str, Any], with_batch: bool) -> str:
    name = str(row["model"]).rsplit("/", 1)[-1]
    runner = {"compile": ", compiled", "onnx": ", onnxruntime"}.get(row["runner"], "")
    return f"{name}{runner}" + (f", batch {row['batch']}" if with_batch else "")


def _where(rows: Sequence[Mapping[str, Any]]) -> str:
    row = rows[0]
    batches = ", ".join(map(str, dict.fromkeys(row["batch"] for row in rows)))
    sizes = ", ".join(map(str, dict.fromkeys(row["size"] for row in rows)))
    threads = f", {row['threads']} threads" if row["threads"] else ""
    return f"{row['device']}{threads}, {row['dtype']}, batch {batches}, {sizes} px, torch {row['torch']}"


def _decades(rows: Sequence[Mapping[str, Any]]) -> bool:
    return bool(max(row["p99_ms"] for row in rows) > 20 * min(row["p50_ms"] for row in rows))


def _some(value: float, _: int) -> str:
    """Label 2 and 5 of a decade: fewer than two labels say nothing about the scale."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""
