"""One run: a network, a seed, its accuracy."""

import time
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.ablations.networks import NETWORKS, build
from benchmarks.ablations.scenes import Scenes, make_scenes
from benchmarks.ablations.settings import Recipe, Size
from ctxvision.nn import ContextualLoss
from ctxvision.nn.layouts import to_layout
from ctxvision.tasks.optimization import Optimization, build_optimizer, build_schedule


class Outcome(NamedTuple):
    """What became of a run."""

    accuracy: float
    """Top-1 on the test scenes, per cent."""
    train_accuracy: float
    """Top-1 on the training scenes without augmentation, per cent."""
    kept: float
    """Test scenes whose class reached the head, per cent; 100 for networks that drop no classes."""
    seconds: float
    """From the first to the last training step."""


class Normalised(NamedTuple):
    """Scenes with mean 0 and standard deviation 1, by the statistics of the training scenes."""

    images: Tensor
    classes: Tensor
    black: float
    """What 0 has become."""


def train(name: str, size: Size, seed: int, device: torch.device) -> Outcome:
    """Compose the data, train the network, test it once, after the last epoch.

    The seed decides on data, initialisation, order and shifts; networks with the same seed see the same batches.

    Args:
        name: Of `benchmarks.ablations.networks.NETWORKS`.
        size: Data and recipe.
        seed: Of everything random.
        device: Where to train.

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    train_scenes, test_scenes = (
        _normalised(scenes, device) for scenes in _statistics(*make_scenes(size.scenes, seed))
    )
    torch.manual_seed(seed)
    model = build(name, size).to(device)
    to_layout(model, "channels_last")
    started = time.perf_counter()
    _fit(model, train_scenes, size.recipes[NETWORKS[name].family], seed)
    seconds = time.perf_counter() - started
    accuracy, kept = evaluate(model, test_scenes)
    return Outcome(accuracy, evaluate(model, train_scenes)[0], kept, seconds)


def _fit(model: nn.Module, scenes: Normalised, recipe: Recipe, seed: int) -> None:
    count = len(scenes.classes)
    steps = count // recipe.batch
    forward: Any = getattr(model, "forward_stages", model)
    loss_of: nn.Module = (
        nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        if forward is model
        else ContextualLoss(label_smoothing=recipe.label_smoothing)
    )
    o = Optimization(lr=recipe.lr, weight_decay=recipe.weight_decay, warmup_epochs=recipe.warmup_epochs)
    optimizer = build_optimizer(model, o)
    schedule = build_schedule(optimizer, o, epochs=recipe.epochs, steps_per_epoch=steps)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for step in range(recipe.epochs * steps):
        if step % steps == 0:
            order = torch.randperm(count, generator=generator)
        chosen = order[step % steps * recipe.batch :][: recipe.batch]
        images = shifted(scenes.images[chosen.to(scenes.images.device)], recipe.shift, scenes.black, generator)
        loss = loss_of(forward(images), scenes.classes[chosen.to(scenes.classes.device)])
        if step % 50 == 0 and not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step_update(step + 1)


@torch.inference_mode()
def evaluate(model: nn.Module, scenes: Normalised) -> tuple[float, float]:
    """Return top-1 accuracy and the share of scenes whose class reached the head, both in per cent."""
    model.eval()
    forward: Any = getattr(model, "forward_stages", model)
    right = kept = 0
    for images, classes in zip(scenes.images.split(256), scenes.classes.split(256), strict=True):
        output = forward(images)
        logits = output if forward is model else output.logits
        right += int((logits.argmax(1) == classes).sum())
        kept += len(classes) if forward is model else int((output.classes[-1] == classes[:, None]).any(1).sum())
    count = len(scenes.classes)
    return 100 * right / count, 100 * kept / count


def shifted(images: Tensor, reach: int, black: float, generator: torch.Generator) -> Tensor:
    """Move each image (B, C, H, W) by up to ``reach`` whole pixels; what comes into view is ``black``."""
    count, _, height, width = images.shape
    padded = F.pad(images, (reach,) * 4, value=black)
    down, right = torch.randint(2 * reach + 1, (2, count), generator=generator).to(images.device)
    rows = (down[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (right[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    image = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[image, channel, rows, columns].contiguous(memory_format=torch.channels_last)


def _statistics(train: Scenes, test: Scenes) -> list[tuple[Scenes, float, float]]:
    mean, deviation = train.images.mean().item(), train.images.std().item()
    return [(train, mean, deviation), (test, mean, deviation)]


def _normalised(scenes: tuple[Scenes, float, float], device: torch.device) -> Normalised:
    found, mean, deviation = scenes
    images = (found.images - mean) / deviation
    return Normalised(
        images.to(device).contiguous(memory_format=torch.channels_last),
        found.classes.to(device),
        -mean / deviation,
    )
