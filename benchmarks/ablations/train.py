"""One run: a network, a seed, its accuracy, and what its prior is good for."""

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.ablations import priors
from benchmarks.ablations.drawings import VIEWS, Drawings, Task, moved, open_task
from benchmarks.ablations.networks import NETWORKS, build
from benchmarks.ablations.settings import Recipe, Size
from ctxvision.nn import ContextualLoss
from ctxvision.nn.layouts import to_layout
from ctxvision.tasks.optimization import Optimization, build_optimizer, build_schedule


class Outcome(NamedTuple):
    """What became of a run; accuracies are top-1, in per cent, after the last epoch."""

    val: float
    """On the validation artist."""
    accuracy: float
    """On the test artist."""
    train_accuracy: float
    """On the training drawings as they are."""
    zero_prior: float
    """On the test artist, with the prior of the trained network at zero; NaN without a prior, as what follows."""
    mean_prior: float
    """With each stage's mean prior over the training drawings."""
    other_prior: float
    """With the prior of an image of another class."""
    prior_share: str
    """How far the priors lie from their mean, in per cent of their length, by stage."""
    kept: str
    """Test images whose class is among those that a stage's prior is merged from, per cent, by stage."""
    temperature: float
    curve: str
    """Accuracy on the validation drawings as they are, ``epoch:per cent``."""
    seconds: float
    """Of the processor, from the first to the last training step."""


class Normaliser(NamedTuple):
    """Makes images of mean 0 and standard deviation 1, by the statistics of the training drawings."""

    mean: Tensor
    deviation: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Return images ``(B, 3, H, W)`` as networks take them."""
        return ((images - self.mean) / self.deviation).contiguous(memory_format=torch.channels_last)


class Fitted(NamedTuple):
    """A trained network with what it was trained on."""

    model: nn.Module
    task: Task
    normalise: Normaliser
    curve: str
    seconds: float


def fit(name: str, size: Size, alpha: float | None, seed: int, device: torch.device) -> Fitted:
    """Train a network.

    The seed decides on initialisation, order and augmentation; networks with the same seed see the same batches.

    Args:
        name: Of `benchmarks.ablations.networks.NETWORKS`.
        size: Data and recipe.
        alpha: Weight of the losses of the stages before the head; ``None`` for a network without.
        seed: Of everything random.
        device: Where to train.

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    task = Task(*(Drawings(*(t.to(device) for t in part)) for part in open_task(size.classes, size.side)))
    mean = task.train.images.mean((0, 2, 3), keepdim=True)
    normalise = Normaliser(mean, task.train.images.std())
    torch.manual_seed(seed)
    model = build(name, size).to(device)
    to_layout(model, "channels_last")
    started = time.process_time()
    network = NETWORKS[name]
    curve = _fit(model, task, normalise, size.recipes[network.family], alpha, seed, network.offset_lr_scale)
    return Fitted(model, task, normalise, curve, time.process_time() - started)


def train(name: str, size: Size, alpha: float | None, seed: int, device: torch.device) -> Outcome:
    """Train a network as `fit` does, and test it after the last epoch."""
    model, task, normalise, curve, seconds = fit(name, size, alpha, seed, device)
    test = shuffled(task.test)
    found = {"zero_prior": float("nan"), "mean_prior": float("nan"), "other_prior": float("nan")}
    shares, kept, temperature = "", "", float("nan")
    context: Any = getattr(model, "context", None)
    if context is not None:
        mean_priors, shares = _priors(model, task.train, normalise)
        changes = (priors.zero(), priors.constant(mean_priors), priors.of_another())
        for control, change in zip(found, changes, strict=True):
            with priors.changed(model, change):
                found[control] = evaluate(model, test, normalise)
        kept, temperature = _kept(model, test, normalise), context.temperature.item()
    return Outcome(
        evaluate(model, task.val, normalise),
        evaluate(model, test, normalise),
        evaluate(model, task.train, normalise),
        **found,
        prior_share=shares,
        kept=kept,
        temperature=temperature,
        curve=curve,
        seconds=seconds,
    )


def _fit(
    model: nn.Module,
    task: Task,
    normalise: Normaliser,
    recipe: Recipe,
    alpha: float | None,
    seed: int,
    offset_lr_scale: float,
) -> str:
    images, classes = task.train
    forward: Any = getattr(model, "forward_stages", model)
    loss_of: nn.Module = (
        nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        if forward is model
        else ContextualLoss(alpha=alpha or 0.0, label_smoothing=recipe.label_smoothing)
    )
    steps = len(classes) // recipe.batch
    o = Optimization(
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        warmup_epochs=recipe.warmup_epochs,
        offset_lr_scale=offset_lr_scale,
    )
    optimizer = build_optimizer(model, o)
    schedule = build_schedule(optimizer, o, epochs=recipe.epochs, steps_per_epoch=steps)
    generator = torch.Generator().manual_seed(seed)
    once = Drawings(*(t[: len(t) // VIEWS] for t in task.val))
    curve, step = [], 0
    model.train()
    for epoch in range(1, recipe.epochs + 1):
        order = torch.randperm(len(classes), generator=generator)
        for chosen in order[: steps * recipe.batch].to(images.device).split(recipe.batch):
            loss = loss_of(forward(normalise(moved(images[chosen], generator))), classes[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            schedule.step_update(step)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} in epoch {epoch}")
        if epoch % recipe.curve == 0 or epoch == recipe.epochs:
            curve.append(f"{epoch}:{evaluate(model, once, normalise):.1f}")
            model.train()
    return " ".join(curve)


@torch.inference_mode()
def evaluate(model: nn.Module, drawings: Drawings, normalise: Normaliser) -> float:
    """Return top-1 accuracy in per cent."""
    model.eval()
    right = 0
    for images, classes in zip(drawings.images.split(256), drawings.classes.split(256), strict=True):
        right += int((model(normalise(images)).argmax(1) == classes).sum())
    return 100 * right / len(drawings.classes)


@torch.inference_mode()
def _priors(model: nn.Module, drawings: Drawings, normalise: Normaliser) -> tuple[dict[str, Tensor], str]:
    """Return the mean prior of every stage, and how far they are from it."""
    with priors.recorded(model) as found:
        evaluate(model, drawings, normalise)
    whole = {stage: torch.cat(batches) for stage, batches in found.items()}
    shares = " ".join(f"{100 * priors.image_dependent(rows):.1f}" for rows in whole.values())
    return {stage: rows.mean(0) for stage, rows in whole.items()}, shares


@torch.inference_mode()
def _kept(model: nn.Module, drawings: Drawings, normalise: Normaliser) -> str:
    model.eval()
    context: Any = model.context
    right: dict[str, int] = {}
    for images, classes in zip(drawings.images.split(256), drawings.classes.split(256), strict=True):

        def count(stage: str, layer: Any, table: Tensor, step: Any, classes: Tensor = classes) -> Tensor:
            right[stage] = right.get(stage, 0) + int((step.kept == classes[:, None]).any(1).sum())
            prior: Tensor = step.prior
            return prior

        with priors.changed(model, count):
            model(normalise(images))
    return " ".join(f"{100 * right[stage] / len(drawings.classes):.1f}" for stage in context.steps)


def shuffled(drawings: Drawings) -> Drawings:
    """Mix the images, so that two that follow each other show different classes."""
    order = torch.randperm(len(drawings.classes), generator=torch.Generator().manual_seed(0))
    order = order.to(drawings.classes.device)
    return Drawings(drawings.images[order], drawings.classes[order])
