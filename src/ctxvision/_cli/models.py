"""``ctxvision models``: the networks of this library."""

import fnmatch
from argparse import ArgumentParser, Namespace
from typing import Any

from .messages import UserError, say_all, write_rows
from .options import add_shared

COLUMNS = {
    "name": "model",
    "params_m": "params (M)",
    "gmacs": "GMACs",
    "input_size": "input",
    "top1": "top-1",
    "source": "source of top-1",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "pattern",
        metavar="PATTERN",
        nargs="?",
        default="*",
        help="part of a name, or a pattern such as *cot*50, that the listed names match",
    )
    add_shared(parser, "format")


def run(args: Namespace) -> int:
    """Print the networks; see `ctxvision models --help`."""
    from ctxvision.checkpoints.layout import our_models

    names = [n for n in our_models() if fnmatch.fnmatch(n, args.pattern) or args.pattern in n]
    if not names:
        raise UserError(f"no model matches {args.pattern!r}; `ctxvision models` lists all")
    say_all(write_rows([_describe(name) for name in names], COLUMNS, args.format))
    return 0


def _describe(name: str) -> dict[str, Any]:
    import timm
    import torch

    from ctxvision.models import count_macs, paper_result

    with torch.device("meta"):
        model = timm.create_model(name).eval()
    size = model.pretrained_cfg["input_size"]
    result = paper_result(name)
    return {
        "name": name,
        "params_m": round(sum(p.numel() for p in model.parameters()) / 1e6, 3),
        "gmacs": round(count_macs(model, size) / 1e9, 3),
        "input_size": "x".join(map(str, size)),
        "top1": result.top1 if result else None,
        "source": result.source if result else None,
    }
