"""The options of ``python -m benchmarks matrix``."""

import argparse
from pathlib import Path

from benchmarks import rows
from benchmarks.matrix.plan import BATCHES, CACHE, DTYPES, FOREIGN, FORMS, PAIRS, Plan
from benchmarks.settings import RESULTS, default_threads


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--networks", nargs="+", metavar="NAME", default=list(PAIRS), help="ours; NAME:PEER names another plain "
        "network to measure it against (default: %(default)s)")  # fmt: skip
    add("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="ways to run them (default: all)")
    add("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="where a form has them (default: all)")
    add("--batches", nargs="+", type=int, default=list(BATCHES), help="images at a time (default: %(default)s)")
    add("--peers", action="store_true", help="others' implementations of the same networks, too: "
        f"{', '.join(FOREIGN)}; `make peers` installs them")  # fmt: skip
    add("--size", type=int, default=224, help="side of the images in pixels (default: %(default)s)")
    add("--threads", type=int, default=default_threads(), help="(default: %(default)s)")
    add("--repeats", type=int, default=15, help="rounds of a group of networks, at most (default: %(default)s)")
    add("--seconds", type=float, default=8.0, help="a group starts no further round after this long, once there "
        "are five (default: %(default)s)")  # fmt: skip
    add("--exports", type=Path, default=CACHE, help="folder that keeps exported files (default: %(default)s)")
    add("--compiler", help="backend of torch.compile instead of inductor with freezing")
    add("--out", type=Path, default=RESULTS / "matrix.csv", help="CSV file to append to; of this very code and "
        "machine it is not measured again (default: %(default)s)")  # fmt: skip
    add("--report", action="store_true", help="measure nothing, print the tables of what the file holds")


def run(args: argparse.Namespace) -> None:
    """Measure and print, or only print.

    Raises:
        ValueError: If an option is out of range.
    """
    from benchmarks.matrix.report import report

    plan = plan_of(args)
    if args.report:
        if not args.out.is_file():
            raise ValueError(f"{args.out}: no such file; measure first")
        found = [row for row in rows.read(args.out) if _asked_for(row, plan)]
    else:
        from benchmarks.matrix.run import run as measure

        found = measure(plan, args.out)
    print(report(found, (plan.threads, plan.size) == (2, 224)))


def plan_of(args: argparse.Namespace) -> Plan:
    """Return the plan that the options describe.

    Raises:
        ValueError: If a number is too small, or a network has no peer.
    """
    numbers = {
        "--size": args.size,
        "--threads": args.threads,
        "--repeats": args.repeats,
        "--batches": min(args.batches),
    }
    for option, value in numbers.items():
        if value < 1:
            raise ValueError(f"{option} must be at least 1, got {value}")
    pairs = {}
    for text in args.networks:
        name, _, peer = text.partition(":")
        if not peer and name not in PAIRS:
            raise ValueError(f"--networks {name}: name the plain network to measure it against, {name}:PEER; "
                             f"known are {', '.join(PAIRS)}")  # fmt: skip
        pairs[name] = peer or PAIRS[name]
    foreign = {name: its for name, its in FOREIGN.items() if its.of in pairs} if args.peers else {}
    return Plan(
        pairs, [form for form in FORMS if form in args.forms], [one for one in DTYPES if one in args.dtypes],
        tuple(dict.fromkeys(args.batches)), foreign, args.size, args.threads, args.repeats, args.seconds,
        args.exports, args.compiler,
    )  # fmt: skip


def _asked_for(row: dict[str, str], plan: Plan) -> bool:
    names = {*plan.pairs, *plan.pairs.values(), *FOREIGN}
    return (
        row["network"] in names
        and row["form"] in plan.forms
        and row["dtype"] in plan.dtypes
        and int(row["batch"]) in plan.batches
        and (int(row["resolution"]), int(row["threads"])) == (plan.size, plan.threads)
    )
