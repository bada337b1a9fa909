"""Search width rules under which the contextual ConvNeXts meet the parameter budgets of the paper.

Counts are closed forms over the plain timm networks, so nothing contextual has to be built. A rule's score
is its smallest margin (1: in the middle of every budget); ``--detail N`` prints the budgets of the best N. The
ResNet needs no search: its widths are those of the authors' released code.
"""

import argparse
from collections.abc import Callable
from itertools import product

import timm
import torch
from torch import nn

Rule = Callable[[int], int]
Range = tuple[float, float]
CLASSES, DIM, TAPS = 1000, 256, 49
WIDTHS = {"convnext_tiny": 96, "convnext_small": 96, "convnext_base": 128}  # of the first stage
BLOCKS = {2: 1, 3: 3, 4: 1}  # contextual ones of each stage

# Hidden width of a projection as a function of its input channels C (fixed widths ignore C).
FRACTIONS: dict[str, Rule] = {
    "C/8": lambda c: c // 8, "C/6": lambda c: c // 6, "C/4": lambda c: c // 4, "C/3": lambda c: c // 3,
    "3C/8": lambda c: 3 * c // 8, "2C/5": lambda c: 2 * c // 5, "C/2": lambda c: c // 2, "C": lambda c: c,
}  # fmt: skip
CONTEXT_HIDDEN: dict[str, Rule] = {
    **FRACTIONS, **{str(v): lambda c, v=v: v for v in (32, 40, 48, 64, 96, 128)}, "C/16": lambda c: c // 16,
    **{f"max({v},C/16)": lambda c, v=v: max(v, c // 16) for v in (32, 48, 64)},
}  # fmt: skip
HEAD_HIDDEN: dict[str, Rule] = FRACTIONS | {str(v): lambda c, v=v: v for v in (512, 640, *range(768, 897, 8))}
MERGE_HIDDEN = (16, 24, 32, 48, 64, 96, 128)
BOTTLENECK = range(16, 33)  # of the weight-offset generator
BUDGETS: dict[str, Range] = {  # millions of parameters
    "convnext_tiny": (31.5, 32.5), "convnext_small": (52.5, 53.5), "convnext_base": (92.5, 93.5),
}  # fmt: skip
MACS = {"convnext_tiny": 4.6, "convnext_small": 8.9, "convnext_base": 15.8}


def plain_counts(name: str) -> tuple[int, int]:
    """Parameters and multiply-adds at 224 x 224 of a plain network without its classifier and its last norm."""
    model, macs = timm.create_model(name).eval().to("meta"), 0

    def add(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal macs
        macs += out.numel() * layer.weight[0].numel()

    for layer in (m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))):
        layer.register_forward_hook(add)
    model(torch.zeros(1, 3, 224, 224, device="meta"))
    fc = 8 * WIDTHS[name] * CLASSES
    return sum(p.numel() for p in model.parameters()) - fc - CLASSES - 16 * WIDTHS[name], macs - fc


def projection(c: int, h: int) -> int:
    """Parameters of Linear(c, h), LayerNorm(h), ReLU, Linear(h, DIM)."""
    return (c + 3) * h + (h + 1) * DIM


def added(name: str, context: Rule, head: Rule, hm: int, r: int) -> tuple[int, int]:
    """Parameters and multiply-adds that the contextual parts add to the network without its classifier."""
    c = 8 * WIDTHS[name]
    macs = CLASSES * DIM + projection(c, head(c))
    params = macs + 1  # the temperature
    for stage, blocks in BLOCKS.items():
        w = WIDTHS[name] * 2 ** (stage - 1)
        c, area = w // 2, (112 // 2**stage) ** 2
        params += projection(c, context(c)) + projection(DIM, hm) + 2 * DIM  # a second LayerNorm
        macs += projection(c, context(c)) + CLASSES * DIM * (hm + 1)
        generator = (w + DIM + 3) * r + (r + 1) * w * TAPS
        params += blocks * (generator + (w + DIM + 3) * 2 * TAPS + (TAPS + 1) * 2 * TAPS)
        macs += blocks * (generator + 2 * TAPS * (w * area + DIM + TAPS * area) + 4 * TAPS * w * area)
    return params, macs


def margin(value: float, bounds: Range) -> float:
    """Distance to the nearer bound as a share of half the range: 1 in the middle, negative outside."""
    low, high = bounds
    return min(value - low, high - value) / ((high - low) / 2)


def main() -> None:
    """Print the feasible rules, those with the largest smallest margin first."""
    parser = argparse.ArgumentParser(description="Search the widths of the contextual ConvNeXts.")
    parser.add_argument("--top", type=int, default=20, help="rules printed")
    parser.add_argument("--detail", type=int, default=1, help="rules printed with every budget")
    args = parser.parse_args()
    plain = {name: plain_counts(name) for name in MACS}
    found = []
    for picks in product(CONTEXT_HIDDEN.items(), HEAD_HIDDEN.items(), MERGE_HIDDEN, BOTTLENECK):
        (ctx, context), (top, head), hm, neck = picks
        extra = {name: added(name, context, head, hm, neck) for name in MACS}
        values = {name: (plain[name][0] + extra[name][0]) / 1e6 for name in MACS}
        gmacs = {name: (plain[name][1] + extra[name][1]) / 1e9 for name in MACS}
        worst = min(margin(value, BUDGETS[name]) for name, value in values.items())
        if worst >= 0 and all(abs(gmacs[name] / MACS[name] - 1) <= 0.03 for name in MACS):
            found.append((worst, f"context {ctx}, head {top}, merge {hm}, r {neck}", values, gmacs))
    found.sort(key=lambda f: -f[0])
    print(f"{len(found)} feasible rules")
    for i, (worst, text, values, gmacs) in enumerate(found[: args.top]):
        print(f"  {worst:.2f}  {text}  [{', '.join(f'{g:.3f}G' for g in gmacs.values())}]")
        for key, value in values.items() if i < args.detail else ():
            print(f"        {key:15}{value:9.3f}M in {BUDGETS[key]} ({margin(value, BUDGETS[key]):.2f})")


if __name__ == "__main__":
    main()
