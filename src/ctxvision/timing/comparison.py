"""Networks against each other: opened, timed in turns, their memory measured, one row for each."""

import platform
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ctxvision.inference.optimizing import Compiled
from ctxvision.nn.layouts import LAYOUTS
from ctxvision.progress import Progress, silent

from .clock import Candidate, device_name, percentiles, take_turns
from .memory import peak_in_fresh_process
from .subjects import TimedNetwork, open_subject

TORCH, COMPILED, ONNX = "torch", "compile", "onnx"
COLUMNS = (
    "model", "runner", "layout", "batch", "size", "images_s", "images_s_q1", "images_s_q3", "mean_ms", "p50_ms",
    "p90_ms", "p99_ms", "samples", "peak_mib", "params_m", "gmacs", "against", "against_runner", "ratio",
    "ratio_q1", "ratio_q3", "error", "date", "device", "dtype", "threads", "python", "torch", "timm", "ctxvision",
)  # fmt: skip
Row = dict[str, Any]
_TRIALS = 3


@dataclass(frozen=True)
class Settings:
    """How networks are compared.

    Attributes:
        models: Names or paths of the networks to time, in the order of the table.
        against: Name or path of the network that the others are compared with, by the fastest of its rows.
        device: Kind of device, ``cpu`` or ``cuda``.
        dtype: Data type of weights and images.
        size: Height and width of the images in pixels; ``None`` means 224, or the size that a file names.
        batches: Numbers of images computed at a time, one run after the other.
        layout: Memory layout of weights and images, ``channels_last``, ``nchw``, or ``best`` of both for each
            network and batch.
        optimize: What is done to each network of torch before: ``"fuse"`` folds BatchNorm into other layers, as
            `ctxvision.inference.open_predictor` does; ``"none"`` leaves it as it is.
        compile: Whether to time what ``torch.compile`` makes of each network as well.
        onnx: Whether to time what onnxruntime makes of each network as well.
        repeats: Largest number of rounds.
        seconds: Time for each row in seconds; no further round is started after it, once there are five.
        threads: Number of threads on the CPU.
        memory: Whether to measure the memory.
        trust: Whether the makers of model files are trusted, see `open_subject`.
    """

    models: Sequence[str]
    against: str | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: str = "float32"
    size: int | None = None
    batches: Sequence[int] = (1,)
    layout: str = "best"
    optimize: Literal["fuse", "none"] = "fuse"
    compile: bool = False
    onnx: bool = False
    repeats: int = 200
    seconds: float = 10.0
    threads: int = 1
    memory: bool = True
    trust: bool = False


@dataclass
class _Entry:
    """One row in the making.

    Attributes:
        model: Name or path that the user gave.
        runner: Name of what computes the network, one of `TORCH`, `COMPILED` and `ONNX`.
        subject: The network, unless it could not be opened.
        compute: Function that the runner has made, if it is not the network itself.
        file: Path of the file that another process opens the network from.
        error: Reason why there is nothing to time.
    """

    model: str
    runner: str
    subject: TimedNetwork | None = None
    compute: Callable[[Tensor], Any] | None = None
    file: str = ""
    error: str = ""


def compare(
    settings: Settings, say: Callable[[str], None] = lambda line: None, progress: Progress = silent
) -> list[Row]:
    """Time networks in turns; what fails has a row with its reason, and the others go on.

    Args:
        settings: Settings of the comparison.
        say: Function that is called with a line about what comes now, where that takes long.
        progress: Function that is told the share of the time that the samples of a batch size have taken, in
            percent; see `ctxvision.progress`.

    Returns:
        Rows with `COLUMNS`, by batch, network and runner.
    """
    torch.set_num_threads(settings.threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="ctxvision-") as folder:
        entries = [entry for model in settings.models for entry in _open(model, settings, Path(folder), say)]
        for batch in settings.batches:
            rows += _compare_batch(entries, batch, settings, say, progress)
    shared = _machine(settings)
    return [{name: (row | shared).get(name) for name in COLUMNS} for row in rows]


def ratios(samples: Sequence[float], against: Sequence[float]) -> tuple[float, float, float]:
    """Return first quartile, median and third quartile of how many times as fast, round by round."""
    q1, median, q3 = np.percentile(np.asarray(against) / np.asarray(samples), (25, 50, 75)).tolist()
    return q1, median, q3


def _open(model: str, settings: Settings, folder: Path, say: Callable[[str], None]) -> Iterable[_Entry]:
    """Yield the rows of one network, without times."""
    try:
        fused = settings.optimize == "fuse"
        subject = open_subject(
            model, settings.size, settings.device, settings.dtype, fused=fused, trust=settings.trust
        )
    except Exception as error:  # of files, of timm, of constructors: whatever a network raises is its row's
        yield _Entry(model, ONNX if model.endswith(".onnx") else TORCH, error=_line(error))
        return
    if subject.network is None:
        yield _Entry(model, ONNX if model.lower().endswith(".onnx") else TORCH, subject, file=model)
        return
    if subject.prepared:
        say(f"{model}: {subject.prepared}")
    yield _Entry(model, TORCH, subject, file=model)
    if settings.compile:
        yield _Entry(model, COMPILED, subject, Compiled(subject.network, any_batch=False))
    if settings.onnx:
        say(f"{model}: exporting to ONNX")
        try:
            path = _export(subject, folder)
            graph = open_subject(str(path), None, settings.device, settings.dtype, trust=True)
            graph = replace(graph, params=subject.params, macs=subject.macs)
            yield _Entry(model, ONNX, graph, file=str(path))
        except Exception as error:  # the exporter raises many kinds
            yield _Entry(model, ONNX, error=_line(error))


def _export(subject: TimedNetwork, folder: Path) -> Path:
    from ctxvision.export import Metadata, export_onnx

    assert subject.network is not None
    spec = {"class_names": [], "input_size": list(subject.input_size)}
    path = folder / f"{len(list(folder.iterdir()))}.onnx"
    export_onnx(subject.network, path, metadata=Metadata(subject.model, "classification", spec))
    return path


def _compare_batch(
    entries: Sequence[_Entry], batch: int, settings: Settings, say: Callable[[str], None], progress: Progress
) -> list[Row]:
    layouts: dict[str, str] = {}
    candidates: dict[str, Candidate] = {}
    rows: dict[str, Row] = {}
    for entry in entries:
        key = f"{entry.model} {entry.runner}"
        rows[key] = {"model": entry.model, "runner": entry.runner, "batch": batch, "error": entry.error or None}
        if entry.subject is None:
            continue
        if entry.runner == COMPILED:
            say(f"{entry.model}: compiling for batch {batch}")
        try:
            if entry.subject.network is None:
                layout = "nchw"
            else:
                if entry.model not in layouts:
                    layouts[entry.model] = _layout(entry.subject, batch, settings)
                layout = layouts[entry.model]
            call = entry.subject.inference(batch, layout, entry.compute)
            with torch._dynamo.config.patch(recompile_limit=256):  # networks of one class share their code
                output = call()
            if not bool(output.isfinite().all()):
                raise ValueError(f"computes NaN or infinity in {settings.dtype}")
        except Exception as error:  # of kernels, of compilers, of memory
            rows[key]["error"] = _line(error)
            continue
        candidates[key] = Candidate(call)
        rows[key] |= _place(entry, layout)
    if candidates:
        say(f"batch {batch}: timing")
    limit = settings.seconds * len(candidates)

    def tell(rounds: int, seconds: float) -> None:
        share = max(rounds / settings.repeats, seconds / limit if limit else 1.0)  # nothing is left to time: done
        progress(f"timing batch {batch}, percent", min(int(100 * share), 100), 100)

    samples = take_turns(candidates, settings.device, settings.repeats, limit, one_call=True, tell=tell)
    base = _base(samples, settings.against)
    for key, taken in samples.items():
        rows[key] |= _speeds(taken, batch)
        if base is not None:
            q1, median, q3 = ratios(taken, samples[base])
            rows[key] |= {"against": settings.against, "against_runner": rows[base]["runner"]}
            rows[key] |= {"ratio": median, "ratio_q1": q1, "ratio_q3": q3}
    if settings.memory:
        for entry in entries:
            row = rows[f"{entry.model} {entry.runner}"]
            if entry.file and not row["error"]:
                _add_memory(row, entry, settings, say)
    return list(rows.values())


def _layout(subject: TimedNetwork, batch: int, settings: Settings) -> str:
    """Choose the faster layout by a short trial, in turns."""
    if settings.layout != "best":
        return settings.layout
    candidates: dict[str, Candidate] = {
        layout: Candidate(subject.inference(batch, layout), _laying_out(subject, batch, layout))
        for layout in LAYOUTS
    }
    samples = take_turns(candidates, settings.device, _TRIALS, 0)
    return min(samples, key=lambda layout: float(np.median(samples[layout])))


def _laying_out(subject: TimedNetwork, batch: int, layout: str) -> Callable[[], object]:
    return lambda: subject.inference(batch, layout)


def _place(entry: _Entry, layout: str) -> Row:
    subject = entry.subject
    assert subject is not None
    height, width = subject.input_size[1:]
    return {
        "layout": layout,
        "size": height if height == width else f"{height}x{width}",
        "params_m": None if subject.params is None else subject.params / 1e6,
        "gmacs": None if subject.macs is None else subject.macs / 1e9,
    }


def _speeds(seconds: Sequence[float], batch: int) -> Row:
    p25, p50, p75, p90, p99 = percentiles(seconds, (25, 50, 75, 90, 99))
    return {
        "images_s": batch / p50 * 1e3, "images_s_q1": batch / p75 * 1e3, "images_s_q3": batch / p25 * 1e3,
        "mean_ms": float(np.mean(seconds)) * 1e3, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99,
        "samples": len(seconds),
    }  # fmt: skip


def _base(samples: Mapping[str, Sequence[float]], against: str | None) -> str | None:
    """Name the row to compare with: the peer's fastest, since its user would choose that one."""
    keys = [key for key in (f"{against} {runner}" for runner in (TORCH, COMPILED, ONNX)) if key in samples]
    return min(keys, key=lambda key: float(np.median(samples[key])), default=None)


def _add_memory(row: Row, entry: _Entry, settings: Settings, say: Callable[[str], None]) -> None:
    arguments = {
        "file": entry.file,
        "size": None if entry.runner == ONNX and entry.file != entry.model else settings.size,
        "device": str(settings.device), "dtype": settings.dtype, "layout": row["layout"], "batch": row["batch"],
        "threads": settings.threads, "fused": settings.optimize == "fuse",
        "trust": settings.trust or entry.file != entry.model,
    }  # fmt: skip
    try:
        row["peak_mib"] = peak_in_fresh_process(arguments)
    except RuntimeError as error:  # the times are worth keeping
        say(f"{entry.model}, {entry.runner}: its memory could not be measured ({error})")


def _machine(settings: Settings) -> Row:
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "device": device_name(settings.device),
        "dtype": settings.dtype,
        "threads": settings.threads if settings.device.type == "cpu" else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "timm", "ctxvision")},
    }


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
