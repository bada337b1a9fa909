"""What becomes of prior and weight offsets: trains one network, and follows both on the test drawings.

python -m benchmarks.ablations.where --network contextual --alpha 1 --seed 0
python -m benchmarks.ablations.where --network no_prior_one_rate
"""

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.ablations import priors
from benchmarks.ablations.drawings import Drawings
from benchmarks.ablations.networks import NETWORKS
from benchmarks.ablations.settings import SIZES
from benchmarks.ablations.train import Normaliser, fit, shuffled
from benchmarks.table import markdown
from ctxvision.nn import ClassContext
from ctxvision.nn.class_context import ClassStep
from ctxvision.nn.contextual_conv import ContextualConv2d

Batches = list[Tensor]


def sets_differ(kept: Tensor) -> float:
    """Return which share of its classes an image's set does not have in common with another image's, on average.

    Args:
        kept: Classes of each image, ``(N, n)``.
    """
    count, size = kept.shape
    members = torch.zeros(count, int(kept.max()) + 1).scatter_(1, kept.cpu(), 1.0)
    common = (members.sum(0).square().sum() - count * size) / (count * (count - 1))
    return 1 - float(common) / size


@torch.inference_mode()
def steps_of(model: nn.Module, drawings: Drawings, normalise: Normaliser) -> dict[str, dict[str, Tensor]]:
    """Return what stands at each step on the way to the prior, for each stage and all images.

    ``kept`` are the classes ``(N, n)``, ``embeddings`` the mean of their embeddings, ``mapped`` that of what the
    layer's first map makes of them, ``prior`` the prior.
    """
    found: dict[str, dict[str, Batches]] = {}

    def keep(stage: str, layer: ClassContext, table: Tensor, step: ClassStep) -> Tensor:
        assert layer.embed is not None
        assert step.prior is not None
        values = {
            "kept": step.kept,
            "embeddings": table[step.kept].mean(1),
            "mapped": layer.embed(table)[step.kept].mean(1),
            "prior": step.prior,
        }
        for name, value in values.items():
            found.setdefault(stage, {}).setdefault(name, []).append(value)
        return step.prior

    with priors.changed(model, keep):
        answers(model, drawings, normalise)
    return {stage: {name: torch.cat(rows) for name, rows in steps.items()} for stage, steps in found.items()}


@torch.inference_mode()
def answers(model: nn.Module, drawings: Drawings, normalise: Normaliser) -> Tensor:
    """Return the best class of each image."""
    model.eval()
    return torch.cat([model(normalise(images)).argmax(1) for images in drawings.images.split(256)])


@torch.inference_mode()
def offsets_of(model: nn.Module, drawings: Drawings, normalise: Normaliser) -> dict[str, tuple[float, float]]:
    """Return of each layer with weight offsets how long they are, in lengths of the kernel, and their own share.

    Both are lengths of the kernel of one input channel; the offsets are the same for every output channel of a
    dense convolution. The share is that which is not the mean over all images, as `priors.image_dependent` has it.
    """
    bent = {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, ContextualConv2d) and part.weight_offsets is not None
    }
    found: dict[str, Batches] = {name: [] for name in bent}
    handles = [
        part.weight_offsets.register_forward_hook(lambda _, __, made, name=name: found[name].append(made))
        for name, part in bent.items()
        if part.weight_offsets is not None
    ]
    answers(model, drawings, normalise)
    for handle in handles:
        handle.remove()
    lengths = {}
    for name, part in bent.items():
        made = torch.cat(found[name]).flatten(2)
        kernel = part.weight.square().mean(0).sum((1, 2)).sqrt()
        length = float(made.norm(dim=2).mean() / kernel.mean())
        lengths[name] = length, priors.image_dependent(made.flatten(1))
    return lengths


def offsets_report(model: nn.Module, drawings: Drawings, normalise: Normaliser) -> str:
    """Return a table with a line per layer."""
    body = [
        (f"`{name}`", f"{length:.2f}", f"{100 * share:.0f}")
        for name, (length, share) in offsets_of(model, drawings, normalise).items()
    ]
    header = ("layer", "length of the weight offsets ÷ that of the kernel", "image-dependent, %")
    return markdown(header, body)


def report(model: nn.Module, drawings: Drawings, normalise: Normaliser) -> str:
    """Return a table with a line per stage, and how many answers the prior of the image decides."""
    classes: Any = model.num_classes
    body = []
    whole = steps_of(model, drawings, normalise)
    for stage, steps in whole.items():
        number = steps["kept"].shape[1]
        chance = 1 - number / classes
        shares = [f"{100 * priors.image_dependent(steps[name]):.0f}" for name in ("embeddings", "mapped", "prior")]
        differ = f"{100 * sets_differ(steps['kept']):.0f} ({100 * chance:.0f})"
        body.append((stage, f"{number} of {classes}", differ, *shares))
    header = ("stage", "classes merged", "not in another image's set, % (by chance)",
              "of the mean embedding, %", "after the first map, %", "of the prior, %")  # fmt: skip
    means = {stage: steps["prior"].mean(0) for stage, steps in whole.items()}
    before, right = answers(model, drawings, normalise), drawings.classes
    lines = []
    changes = {"zero": priors.zero(), "the mean": priors.constant(means), "another image's": priors.of_another()}
    for label, change in changes.items():
        with priors.changed(model, change):
            after = answers(model, drawings, normalise)
        changed, better, worse = (
            100 * float(part.float().mean())
            for part in (
                after != before,
                (after == right) & (before != right),
                (after != right) & (before == right),
            )
        )
        lines.append((label, f"{changed:.1f}", f"{better:.1f}", f"{worse:.1f}"))
    second = markdown(("the prior is", "answers that change, %", "become right, %", "become wrong, %"), lines)
    return f"{markdown(header, body)}\n\n{second}"


def main() -> None:
    """Train one network and print the tables for the test artist."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name, network in NETWORKS.items() if network.family == "contextual" and name != "plain"]
    parser.add_argument("--network", choices=known, default="contextual")
    parser.add_argument("--size", choices=SIZES, default="100")
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    size = SIZES[args.size]
    network = NETWORKS[args.network]
    alpha = args.alpha if network.has_stage_losses else None
    torch.set_num_threads(1)  # as in the ablations' runs: small networks gain nothing by more
    model, task, normalise, _, _ = fit(args.network, size, alpha, args.seed, torch.device("cpu"))
    test = shuffled(task.test)
    if network.has_stage_losses and network.use != "zero":
        print(report(model, test, normalise))
    print(offsets_report(model, test, normalise))


if __name__ == "__main__":
    main()
