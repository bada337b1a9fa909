"""One piece of work at a time: check an operator, time it, time a network, try tiles. Each returns rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from benchmarks.gate import RedGate, check, check_finite, oracle
from benchmarks.gpu.plan import Item, Network, Operator, Plan, Tiles, Verify
from benchmarks.gpu.problems import Problem
from benchmarks.limits import Yardsticks
from benchmarks.models.check import check_network
from benchmarks.models.networks import Batch, Steps, build, random_batch
from benchmarks.ops.cases import PASSES, lay_out, one_pass
from benchmarks.ops.check import check_case
from benchmarks.ops.run import _measure as measure_operator
from benchmarks.settings import DTYPES, Settings
from ctxvision.nn.layouts import LAYOUTS, Layout, to_layout
from ctxvision.ops import use_backend
from ctxvision.timing.clock import Candidate, quantiles, take_turns
from ctxvision.timing.preparation import set_batch_norm_statistics

Row = dict[str, Any]
HALVES = DTYPES | {"float16": torch.float16}


def work(item: Item, plan: Plan) -> Iterator[Row]:
    """Yield the rows of an item as they come.

    A row says what was done in ``what``, ``layout``, ``pass``, ``candidate``, ``dtype``; figures that it has not
    are absent. Whatever is wrong is raised, once what could be found out was yielded.
    """
    if isinstance(item, Verify):
        yield from _verify(item, plan)
    elif isinstance(item, Operator):
        yield from _time_operator(item, plan)
    elif isinstance(item, Network):
        yield from _time_network(item, plan)
    else:
        yield from _try_tiles(item, plan)


# ------------------------------------------------------------------------------------------------- correctness


def _verify(item: Verify, plan: Plan) -> Iterator[Row]:
    """Compare Triton's result and gradients with the oracle in float64, behind every kind of strides."""
    problem, dtype, device = item.problem, HALVES[item.dtype], torch.device(plan.device)
    ours, expected_by = problem.functions()
    rounded = [None if t is None else t.to(device, dtype) for t in problem.tensors()]
    expected = oracle.outputs_and_gradients(expected_by, [None if t is None else t.double() for t in rounded])
    failures = []
    for layout in plan.verified_layouts:
        tensors = [None if t is None else _behind_strides(t, layout) for t in rounded]
        what = f"{problem.op} {problem.shape}, {item.dtype}, {layout}"
        try:
            with use_backend("triton"):
                found = oracle.outputs_and_gradients(ours, tensors)
            for name, actual, value in zip(_names(problem, rounded), found, expected, strict=True):
                check_finite(f"{what}: {name}", actual)
                check(f"{what}: {name}", actual, value, dtype)
            outcome = "equal"
        except RedGate as error:
            outcome = f"WRONG: {error}"
            failures.append(outcome)
        yield {
            "what": f"{problem.op} {problem.shape}", "layout": layout, "pass": "forward+backward",
            "candidate": "ours, triton", "dtype": item.dtype, "batch": problem.batch, "outcome": outcome,
        }  # fmt: skip
    if failures:
        raise RedGate(f"{len(failures)} of {len(plan.verified_layouts)} layouts; the first: {failures[0]}")


def _behind_strides(tensor: Tensor, layout: str) -> Tensor:
    """Return the same values behind other strides, in memory that is NaN everywhere else."""
    if layout == "contiguous":
        return oracle.in_nan_buffer(tensor.contiguous())  # type: ignore[no-any-return]
    laid = dict(oracle.layouts(tensor))
    if layout not in laid:  # channels_last of what is not 4-d
        return oracle.in_nan_buffer(tensor.contiguous())  # type: ignore[no-any-return]
    return laid[layout] if layout == "sliced" else oracle.in_nan_buffer(laid[layout])  # type: ignore[no-any-return]


def _names(problem: Problem, tensors: list[Tensor | None]) -> list[str]:
    arguments = ("x", "weight", "sampling offset", "weight offset", "mask", "bias")
    present = [name for name, tensor in zip(arguments, tensors, strict=False) if tensor is not None]
    return ["forward", *(f"gradient of {name}" for name in present)]


# --------------------------------------------------------------------------------------------------- operators


def _time_operator(item: Operator, plan: Plan) -> Iterator[Row]:
    """Time an operator and its peers, both passes and layouts; as a share of what a copy reaches."""
    settings = plan.settings(item.dtype)
    settings.apply()
    check_case(item.case, settings)
    yardsticks = Yardsticks(settings, plan.shrink)
    for which in PASSES:
        rows = measure_operator(item.case, which, settings, yardsticks, compile_it=False)
        ours = min(float(str(row["p50_ms"])) for row in rows if row["candidate"] == "ours")
        for row in rows:
            times = {name: row[name] for name in ("p10_ms", "p50_ms", "p90_ms", "repeats", "gb_s", "copy_share")}
            place = {name: row[name] for name in ("layout", "pass", "candidate", "batch")}
            ratio = float(str(row["p50_ms"])) / ours
            what = f"{row['op']} {row['shape']}"
            yield {
                "what": what,
                "dtype": item.dtype,
                **place,
                **times,
                "ratio": ratio,
                "peer": "ours",
                "outcome": "timed",
            }


# ---------------------------------------------------------------------------------------------------- networks


def _time_network(item: Network, plan: Plan) -> Iterator[Row]:
    """Time a network and its plain peer in turns; ``ratio`` is images per second over the peer's."""
    settings = plan.settings(item.dtype)
    settings.apply()
    steps, memory = {}, {}
    for name in (item.name, item.peer):
        model = build(name).to(settings.device)
        set_batch_norm_statistics(model, settings.resolution)
        steps[name] = Steps(model, settings.dtype == torch.bfloat16)
        check_network(name, steps[name], settings.resolution)
    layouts: list[Layout] = ["channels_last"] if item.compiled else list(LAYOUTS)
    candidates: dict[tuple[str, Layout], Candidate] = {}
    for name, its in steps.items():
        for layout in layouts:
            batch = random_batch(settings.resolution, settings.batch, layout, settings.device)
            candidates[name, layout] = Candidate(_call(its, item, batch, plan), _prepare(its, item, layout))
            memory[name, layout] = _peak(candidates[name, layout], settings.device)
    keys = {f"{name}/{layout}": (name, layout) for name, layout in candidates}
    samples = take_turns(
        {text: candidates[key] for text, key in keys.items()}, settings.device, settings.repeats, settings.seconds
    )
    times = {keys[text]: quantiles(taken) for text, taken in samples.items()}
    best = {name: min(times[name, layout].p50 for layout in layouts) for name in steps}
    for (name, layout), time in times.items():
        yield {
            "what": f"{name} {settings.resolution} px", "layout": layout, "pass": item.which,
            "candidate": "compiled" if item.compiled else "eager", "dtype": item.dtype, "batch": settings.batch,
            "p10_ms": time.p10, "p50_ms": time.p50, "p90_ms": time.p90, "repeats": time.repeats,
            "images_s": settings.batch / time.p50 * 1e3, "ratio": best[item.peer] / time.p50, "peer": item.peer,
            "peak_mib": memory[name, layout], "outcome": "timed",
        }  # fmt: skip


def _call(steps: Steps, item: Network, batch: Batch, plan: Plan) -> Callable[[], object]:
    if item.compiled:
        steps.compile(backend=plan.compiler)
    return (lambda: steps.train(batch)) if item.which == "training step" else (lambda: steps.infer(batch))


def _prepare(steps: Steps, item: Network, layout: Layout) -> Callable[[], object]:
    def prepare() -> None:
        to_layout(steps.model, layout)
        steps.model.train(item.which == "training step")

    return prepare


def _peak(candidate: Candidate, device: torch.device) -> float | str:
    """Return the MiB that a call needs at its highest beyond what was held; empty where nobody counts."""
    assert candidate.prepare is not None
    candidate.prepare()
    for _ in range(2):  # the first call compiles and makes the momentum
        candidate.call()
    if device.type != "cuda":
        return ""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    candidate.call()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


# ------------------------------------------------------------------------------------------------------- tiles


@contextmanager
def _tile(module: Any, blocks: dict[str, int]) -> Iterator[None]:
    """Let the kernels of a module run with other tiles until the block ends."""
    own = module._blocks
    module._blocks = lambda *_: dict(blocks)
    try:
        yield
    finally:
        module._blocks = own


def _try_tiles(item: Tiles, plan: Plan) -> Iterator[Row]:
    """Time every tile in turns with the one in use; ``ratio`` is how many times faster than that it is."""
    settings = plan.settings(item.dtype)
    settings.apply()
    module = import_module(
        f"ctxvision.ops.{'aggregation' if item.case.op == 'local_aggregation' else 'contextual_conv'}.triton"
    )
    base = item.case.tensors(settings.batch)
    tensors = tuple(lay_out(tensor, "channels_last", settings.device, settings.dtype) for tensor in base)
    call = one_pass(item.case.ours, tensors, item.which)
    tried: dict[str, Candidate] = {}
    with use_backend("triton"):
        expected = _results(call())
        used = _used(module, call)
        for blocks in _neighbours(used, plan.tile_steps):

            def tiled(blocks: dict[str, int] = blocks) -> object:
                with _tile(module, blocks):
                    return call()

            name = " ".join(f"{key}{value}" for key, value in blocks.items())
            try:
                for actual, value in zip(_results(tiled()), expected, strict=True):
                    check(f"{item.case.op} {item.case.shape}, tile {name}", actual, value, settings.dtype)
            except RedGate:
                raise
            except Exception as error:  # more registers or shared memory than there are
                yield _tile_row(item, settings, name, {"outcome": f"refused: {_line(error)}"})
                continue
            tried[name] = Candidate(tiled)
        samples = take_turns(tried, settings.device, settings.repeats, settings.seconds)
    times = {name: quantiles(taken) for name, taken in samples.items()}
    first = times[next(iter(times))].p50  # the one in use
    fastest = min(times, key=lambda name: times[name].p50)
    for n, (name, time) in enumerate(times.items()):
        words = ["in use"] * (n == 0) + ["fastest"] * (name == fastest)
        figures = {"p10_ms": time.p10, "p50_ms": time.p50, "p90_ms": time.p90, "repeats": time.repeats}
        outcome = {"ratio": first / time.p50, "peer": "tile in use", "outcome": ", ".join(words) or "slower"}
        yield _tile_row(item, settings, name, figures | outcome)


def _tile_row(item: Tiles, settings: Settings, name: str, found: Row) -> Row:
    return {
        "what": f"{item.case.op} {item.case.shape}", "layout": "channels_last", "pass": item.which,
        "candidate": name, "dtype": item.dtype, "batch": settings.batch, **found,
    }  # fmt: skip


def _used(module: Any, call: Callable[[], object]) -> dict[str, int]:
    """Return the tile that a call uses of itself."""
    own, seen = module._blocks, []

    def spy(*args: Any) -> dict[str, int]:
        seen.append(own(*args))
        return own(*args)  # type: ignore[no-any-return]

    module._blocks = spy
    try:
        call()
    finally:
        module._blocks = own
    return dict(seen[0])


def _neighbours(used: dict[str, int], steps: int) -> Iterator[dict[str, int]]:
    """Yield the tile in use, then those with one side or the number of warps halved or doubled ``steps`` times."""
    yield used
    for key, value in used.items():
        for step in range(1, steps + 1):
            for other in (value << step, value >> step):
                if 1 <= other <= (16 if key == "num_warps" else 1024):
                    yield {**used, key: other}


def _results(found: object) -> list[Tensor]:
    tensors = found if isinstance(found, tuple) else (found,)
    return [tensor.detach().clone() for tensor in tensors if isinstance(tensor, Tensor)]


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0][:200]}"
