"""The command line."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import gettempdir

import torch

from benchmarks import loader, serve
from benchmarks.gate import RedGate
from benchmarks.matrix import cli as matrix
from benchmarks.rows import SchemaError
from benchmarks.settings import DTYPES, RESULTS, Settings, default_threads

EPILOG = "Run from the root of the repository. Without options: what the targets are stated for."


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m benchmarks``."""
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, epilog=EPILOG)
    top.description = "Times of the operators and networks against peers in the same run; accuracies of ablations."
    commands = top.add_subparsers(
        dest="command", required=True, metavar="ops|models|matrix|gpu|ablations|recipes|plot|loader|serve"
    )

    ops = commands.add_parser(
        "ops", help="the operators against unfold, shifted sums, deform_conv2d", epilog=EPILOG
    )
    _shared(ops, seconds=4, repeats=50, only="only cases whose operator or shape holds this text, e.g. 64x56x56")
    ops.add_argument(
        "--compiled", choices=("none", "named", "all"), default="named",
        help="compile the shifted sum for no case, for those that a target names, or for all; each takes minutes "
        "the first time (default: %(default)s)",
    )  # fmt: skip

    models = commands.add_parser("models", help="our networks against timm's", epilog=EPILOG)
    _shared(models, seconds=150, repeats=20, only="only these networks; any name that timm knows will do")
    models.add_argument(
        "--sweep", choices=("resolution", "batch"), help="inference over 112-512 px, or batch 1-32"
    )
    models.add_argument("--resolution", type=_positive, default=224, help="side of the images (default: 224)")
    models.add_argument("--skip-memory", action="store_true", help="do not measure peak memory")

    every_way = commands.add_parser("matrix", help="our networks against plain ones, in every way to run them")
    matrix.add_arguments(every_way)

    gpu = commands.add_parser(
        "gpu", help="everything that a GPU has to show, the most important first", epilog=EPILOG
    )
    gpu.add_argument("--minutes", type=float, default=8.0, help="end after this long (default: %(default)s)")
    gpu.add_argument("--out", type=Path, help="CSV file to append to (default: gpu.csv in results/)")
    gpu.add_argument("--smoke", action="store_true", help="toy sizes on the CPU, Triton interpreted. Needs --out")

    _add_ablations(commands.add_parser("ablations", help="does context help? accuracies at equal parameters"))

    _add_recipes(commands.add_parser("recipes", help="does every family learn by its own recipes?"))

    plot = commands.add_parser("plot", help="draw the figures from the CSV files")
    plot.add_argument("--rows", type=Path, default=RESULTS / "models.csv", help="CSV file (default: %(default)s)")
    plot.add_argument("--out", type=Path, default=RESULTS, help="folder (default: %(default)s)")
    plot.add_argument("--format", choices=("svg", "png"), default="svg", help="(default: %(default)s)")

    reading = commands.add_parser("loader", help="does decoding images keep up with a network?", epilog=EPILOG)
    loader.add_arguments(reading)

    serving = commands.add_parser("serve", help="a server under load, against a plain loop", epilog=EPILOG)
    serve.add_arguments(serving)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status: 1 if the gate is red or the rows cannot be appended."""
    args = parser().parse_args(arguments)
    try:
        run = {
            "ops": _ops,
            "models": _models,
            "matrix": matrix.run,
            "gpu": _gpu,
            "ablations": _ablations,
            "recipes": _recipes,
            "plot": _plot,
            "loader": loader.run,
            "serve": serve.run,
        }
        run[args.command](args)
    except RedGate as error:
        print(f"the gate is red, nothing was timed: {error}", file=sys.stderr)
        return 1
    except (SchemaError, ValueError, FileNotFoundError, FloatingPointError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _shared(command: argparse.ArgumentParser, seconds: float, repeats: int, only: str) -> None:
    add = command.add_argument
    add(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu or cuda (default: %(default)s)",
    )
    add("--dtype", choices=DTYPES, help="default: float32; bfloat16 on CUDA (for networks: autocast)")
    add("--threads", type=_positive, default=default_threads(), help="on the CPU (default: %(default)s)")
    add("--batch", type=_positive, help="images (default: 8; 128 on CUDA)")
    add("--only", nargs="+", metavar="NAME", help=only)
    add("--repeats", type=_positive, default=repeats, help="samples of each candidate (default: %(default)s)")
    add(
        "--seconds", type=float, default=seconds,
        help="start no further round after this long, once there are five (default: %(default)s per group of "
        "candidates that take turns)",
    )  # fmt: skip
    add("--out", type=Path, help=f"CSV file to append to (default: {command.prog.split()[-1]}.csv in results/)")
    add("--smoke", action="store_true", help="tiny shapes and two samples: does it run? Needs --out")


def _add_ablations(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--size", choices=("100", "400", "all"), default="100", help="number of classes (default: %(default)s)")
    add("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    add("--seeds", type=_positive, default=5, help="train with seeds 0, 1, … (default: %(default)s)")
    add("--only", nargs="+", metavar="NAME", help="only these networks")
    add("--alpha", type=_weight, help="one weight of the losses before the head for all networks (default: trials "
        "on the validation artist choose it for each)")  # fmt: skip
    add("--most", type=_positive, help="stop after so many runs; a later call goes on")
    add("--processes", type=_positive, default=default_threads(), help="runs at a time (default: %(default)s)")
    add("--threads", type=_positive, default=1, help="of each run on the CPU (default: %(default)s)")
    add("--out", type=Path, default=RESULTS / "ablations.csv", help="CSV file; what it holds is not trained again "
        "(default: %(default)s)")  # fmt: skip
    add("--report", action="store_true", help="train nothing, only print the tables")
    add("--figure", type=Path, help="SVG or PNG file to draw")


def _add_recipes(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--only", nargs="+", metavar="TEXT", help="only recipes and families whose names hold one of these")
    add("--seeds", type=_positive, default=1, help="train with seeds 0, 1, … (default: %(default)s)")
    add("--steps", type=_positive, help="optimiser steps (default: some hundreds, by task)")
    add("--threads", type=_positive, default=1, help="on the CPU (default: %(default)s)")
    add("--out", type=Path, default=RESULTS / "recipes.csv", help="CSV file; what it holds is not trained again "
        "(default: %(default)s)")  # fmt: skip
    add("--work", type=Path, default=Path(gettempdir(), "ctxvision-recipes"), help="folder for digits as files "
        "and for weights to start from (default: %(default)s)")  # fmt: skip
    add("--report", action="store_true", help="train nothing, only print the table")


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda, got {name}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device")
    return device


def _settings(args: argparse.Namespace) -> Settings:
    device = _device(args.device)
    if args.smoke and args.out is None:
        raise ValueError("--smoke needs --out: its rows do not belong among the results")
    cuda = device.type == "cuda"
    dtype = DTYPES[args.dtype or ("bfloat16" if cuda else "float32")]
    batch = args.batch or (128 if cuda else 8)
    resolution = getattr(args, "resolution", 224)
    if args.smoke:
        return Settings(device, dtype, args.threads, 2, 2, 0, min(resolution, 64))
    return Settings(device, dtype, args.threads, batch, args.repeats, args.seconds, resolution)


def _ops(args: argparse.Namespace) -> None:
    from benchmarks.ops.cases import CASES, tiny
    from benchmarks.ops.run import run

    settings = _settings(args)
    cases = [c for c in CASES if not args.only or any(text in f"{c.op} {c.shape}" for text in args.only)]
    if not cases:
        known = ", ".join(f"{case.op} {case.shape}" for case in CASES)
        raise ValueError(f"--only {' '.join(args.only)}: no such case; there are {known}")
    if args.smoke:
        cases = list(dict.fromkeys(map(tiny, cases)))
    compiled = "none" if args.smoke else args.compiled
    run(cases, settings, compiled, args.out or RESULTS / "ops.csv", shrink=64 if args.smoke else 1)


def _models(args: argparse.Namespace) -> None:
    from benchmarks.models.run import run, sweep

    settings, out = _settings(args), args.out or RESULTS / "models.csv"
    if args.sweep:
        sweep(args.only, settings, args.sweep, out, args.smoke)
    else:
        run(args.only, settings, out, memory=not args.skip_memory)


def _gpu(args: argparse.Namespace) -> None:
    from benchmarks.gpu.plan import full, smoke
    from benchmarks.gpu.run import run

    if args.smoke and args.out is None:
        raise ValueError("--smoke needs --out: its rows do not belong among the results")
    if not args.smoke:
        _device("cuda")
    failed = run(smoke() if args.smoke else full(), args.minutes, args.out or RESULTS / "gpu.csv")
    if failed:
        raise RedGate(f"{failed} failed, see above")


def _ablations(args: argparse.Namespace) -> None:
    from benchmarks.ablations.report import accuracies, report
    from benchmarks.ablations.run import run, selected
    from benchmarks.ablations.settings import SIZES

    size = SIZES[args.size]
    names = selected(args.only, size)
    # what was measured elsewhere can be shown anywhere
    device = torch.device(args.device) if args.report else _device(args.device)
    if not args.report:
        settings = Settings(device, torch.float32, args.threads, size.recipes["residual"].batch, 1, 0.0, size.side)
        run(names, args.seeds, size, settings, args.out, args.processes, most=args.most, alpha=args.alpha)
        if args.most:  # there may be trials alone
            return
    found = accuracies(args.out, names, size, device, args.alpha)
    print(report(found))
    if args.figure:
        from benchmarks.ablations.figure import draw

        draw(found, args.figure)


def _recipes(args: argparse.Namespace) -> None:
    from benchmarks.recipes.run import report, run, selected

    wanted = selected(args.only)
    if not args.report:
        settings = Settings(torch.device("cpu"), torch.float32, args.threads, 64, 1, 0.0, 32)
        args.work.mkdir(parents=True, exist_ok=True)
        run(wanted, args.seeds, settings, args.out, args.work, args.steps)
    print(report(args.out, wanted, args.steps))


def _plot(args: argparse.Namespace) -> None:
    from benchmarks.plot.figures import draw

    for path in draw(args.rows, args.out, args.format):
        print(path)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _weight(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:  # nor NaN
        raise argparse.ArgumentTypeError(f"must be a number from 0 on, got {text}")
    return value
