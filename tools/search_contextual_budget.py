"""Search width rules under which the contextual networks meet every parameter budget of the paper.

Counts are closed forms over the plain timm networks, so nothing contextual has to be built. A rule's score
is its smallest margin (1: in the middle of every budget); ``--detail N`` prints the budgets of the best N.
"""

import argparse
from collections.abc import Callable, Iterator
from itertools import product

import timm
import torch
from torch import nn

Rule = Callable[[int], int]
Range = tuple[float, float]
Widths = tuple[Rule, Rule, int, Rule]  # contextualizing projections, head projection, merging, bottleneck r
CLASSES = 1000
CONVNEXT, RESNET = ("convnext_tiny", "convnext_small", "convnext_base"), "resnet50"
FC = {"convnext_tiny": 768, "convnext_small": 768, "convnext_base": 1024, "resnet50": 2048}

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
RESNET_BOTTLENECK: dict[str, Rule] = {  # of the weight-offset generator, from the convolution width w
    "w/8": lambda w: w // 8, "w/7": lambda w: w // 7, "4w/27": lambda w: 4 * w // 27,
    "round8(w/7)": lambda w: 8 * round(w / 56), "w/8 but 48 in stage 3": lambda w: 48 if w == 256 else w // 8,
    **{f"w/8+{v}": lambda w, v=v: w // 8 + v for v in (4, 5, 6, 7, 8)},
    **{f"max({v},w/8)": lambda w, v=v: max(v, w // 8) for v in (32, 40)}, "48": lambda w: 48,
}  # fmt: skip
CONVNEXT_BOTTLENECK: dict[str, Rule] = {str(v): lambda w, v=v: v for v in range(16, 33)}
BUDGETS: dict[str, Range] = {  # millions of parameters
    "convnext_tiny": (31.5, 32.5), "convnext_small": (52.5, 53.5), "convnext_base": (92.5, 93.5),
    "resnet50": (27.85, 27.95), "context input": (25.4, 26.0), "no prior": (26.9, 27.5),
    "weight only": (27.2, 27.8), "sampling only": (25.6, 26.2), "d=64": (27.0, 27.6), "d=128": (27.2, 27.8),
    "d=512": (28.0, 28.6), "stages 4": (26.4, 27.0), "stages 3-4": (27.4, 28.0), "stages 1-4": (27.7, 28.3),
}  # fmt: skip
MACS = {"convnext_tiny": 4.6, "convnext_small": 8.9, "convnext_base": 15.8, "resnet50": 4.3}


def plain_counts(name: str) -> tuple[int, int]:
    """Parameters and multiply-adds at 224 x 224 of a plain network without its classifier."""
    model, macs = timm.create_model(name).eval().to("meta"), 0

    def add(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal macs
        macs += out.numel() * layer.weight[0].numel()

    for layer in (m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))):
        layer.register_forward_hook(add)
    model(torch.zeros(1, 3, 224, 224, device="meta"))
    fc = FC[name] * CLASSES
    return sum(p.numel() for p in model.parameters()) - fc - CLASSES, macs - fc


def projection(c: int, h: int, d: int) -> int:
    """Parameters of Linear(c, h), LayerNorm(h), ReLU, Linear(h, d)."""
    return (c + 3) * h + (h + 1) * d


def added(
    name: str, context: Rule, head: Rule, hm: int, bottleneck: Rule, d: int = 256,
    stages: tuple[int, ...] = (2, 3, 4), weight: bool = True, sampling: bool = True, prior: bool = True,
) -> tuple[int, int]:  # fmt: skip
    """Parameters and multiply-adds that the contextual parts add to the network without its classifier."""
    resnet, base = name == RESNET, {"resnet50": 64, "convnext_base": 128}.get(name, 96)
    blocks, k = ((3, 4, 6, 3), 9) if resnet else ((1, 1, 3, 1), 49)
    ratio, stem = (4, 64) if resnet else (1, base)
    params = macs = 0
    if prior:
        c = 8 * base * ratio
        macs = CLASSES * d + projection(c, head(c), d)
        params = macs + 1  # the temperature
    for s in stages:
        c, w, hw = (base * 2 ** (s - 2) * ratio if s > 1 else stem), base * 2 ** (s - 1), (112 // 2**s) ** 2
        extra = d if prior else 0
        if prior:
            params += projection(c, context(c), d) + projection(d, hm, d) + 2 * d  # a second LayerNorm
            macs += projection(c, context(c), d) + CLASSES * d * (hm + 1)
        r = bottleneck(w)
        for b in range(blocks[s - 1]):
            if weight:
                params += (generator := (w + extra + 3) * r + (r + 1) * w * k)
                macs += generator + (k * w * hw if resnet else 0)
            if sampling:
                area = 4 * hw if resnet and s > 1 and b == 0 else hw
                params += (w + extra + 3) * 2 * k + (k + 1) * 2 * k
                macs += 2 * k * (w * area + extra + k * hw) + 4 * k * w * hw
    return params, macs


def evaluate(name: str, plain: tuple[int, int], rule: Widths) -> Iterator[tuple[str, float]]:
    """Yield (budget, millions of parameters) for one network, the ResNet ablations included."""
    body = plain[0] / 1e6
    yield name, body + added(name, *rule)[0] / 1e6
    if name == RESNET:
        fc = (FC[name] + 1) * CLASSES / 1e6
        extra = 256 * (128 + 256 + 512) / 1e6  # the prior enters the first 1x1 of each contextual stage
        yield "context input", body + extra + added(name, *rule, weight=False, sampling=False)[0] / 1e6
        yield "no prior", body + fc + added(name, *rule, prior=False)[0] / 1e6
        yield "weight only", body + added(name, *rule, sampling=False)[0] / 1e6
        yield "sampling only", body + added(name, *rule, weight=False)[0] / 1e6
        for d in (64, 128, 512):
            yield f"d={d}", body + added(name, *rule, d=d)[0] / 1e6
        for text, stages in (("4", (4,)), ("3-4", (3, 4)), ("1-4", (1, 2, 3, 4))):
            yield f"stages {text}", body + added(name, *rule, stages=stages)[0] / 1e6


def margin(value: float, bounds: Range) -> float:
    """Distance to the nearer bound as a share of half the range: 1 in the middle, negative outside."""
    low, high = bounds
    return min(value - low, high - value) / ((high - low) / 2)


def main() -> None:
    """Print the feasible rules of either family, those with the largest smallest margin first."""
    parser = argparse.ArgumentParser(description="Search the widths of the contextual networks.")
    parser.add_argument("--top", type=int, default=20, help="rules printed for each family")
    parser.add_argument("--detail", type=int, default=1, help="rules printed with every budget")
    args = parser.parse_args()
    plain = {name: plain_counts(name) for name in MACS}
    for names, bottlenecks in (((RESNET,), RESNET_BOTTLENECK), (CONVNEXT, CONVNEXT_BOTTLENECK)):
        found = []
        for picks in product(CONTEXT_HIDDEN.items(), HEAD_HIDDEN.items(), MERGE_HIDDEN, bottlenecks.items()):
            (ctx, context), (top, head), hm, (neck, bottleneck) = picks
            rule: Widths = (context, head, hm, bottleneck)
            values = dict(v for n in names for v in evaluate(n, plain[n], rule))
            worst = min(margin(v, BUDGETS[k]) for k, v in values.items())
            gmacs = {n: (plain[n][1] + added(n, *rule)[1]) / 1e9 for n in names}
            if worst >= 0 and all(abs(gmacs[n] / MACS[n] - 1) <= 0.03 for n in names):
                found.append((worst, f"context {ctx}, head {top}, merge {hm}, r {neck}", values, gmacs))
        found.sort(key=lambda f: -f[0])
        print(f"{', '.join(names)}: {len(found)} feasible rules")
        for i, (worst, text, values, gmacs) in enumerate(found[: args.top]):
            print(f"  {worst:.2f}  {text}  [{', '.join(f'{g:.3f}G' for g in gmacs.values())}]")
            for key, value in values.items() if i < args.detail else ():
                print(f"        {key:15}{value:9.3f}M in {BUDGETS[key]} ({margin(value, BUDGETS[key]):.2f})")


if __name__ == "__main__":
    main()
