"""The batch, the data and the task of a run, ready to be trained, the same as before where a run is resumed."""

import dataclasses
import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from timm import is_model

from ctxvision.checkpoints import PlainClassifier, fit_classes
from ctxvision.data import DataModule
from ctxvision.models import ContextualNet
from ctxvision.tasks import ClassificationTask, Task, load_task
from ctxvision.tasks.fine_tuning import in_short
from ctxvision.tasks.networks import usual_interpolation
from ctxvision.wording import plural

from .error import OptionError, TrainingError
from .options import TrainOptions
from .processes import device_here, say
from .warm_up import with_warmup_steps_within, with_warmup_within

log = logging.getLogger(__name__)


class BatchPlan(NamedTuple):
    """A batch of ``nodes · devices · images · accumulate`` images for every optimiser step."""

    nodes: int
    """Number of machines."""
    devices: int
    """Number of devices on each node."""
    images: int
    """Number of images that a device computes with at a time."""
    accumulate: int
    """Number of backward passes before each optimiser step."""

    def __str__(self) -> str:
        size = self.nodes * self.devices * self.images * self.accumulate
        parts = [plural(self.nodes, "node")] if self.nodes > 1 else []
        parts += [plural(self.devices, "device"), plural(self.images, "image")]
        parts += [f"{self.accumulate} accumulated"] if self.accumulate > 1 else []
        return f"global batch {size} = {' × '.join(parts)}"


def solve(
    batch_size: int, devices: int, nodes: int = 1, *, micro_batch: int | None = None, accumulate: int | None = None
) -> BatchPlan:
    """Share out a global batch exactly.

    Args:
        batch_size: Number of images per optimiser step, over all devices.
        devices: Number of devices on each node.
        nodes: Number of machines.
        micro_batch: Largest number of images that a device may compute with at a time; the largest part that
            divides a device's share equally is taken, unless it is less than half of this limit. ``None`` is no
            limit.
        accumulate: Number of parts of a device's share; ``None`` lets it follow from the limit.

    Raises:
        OptionError: The batch cannot be shared out so; the message names the nearest sizes that can.
    """
    everywhere = devices * nodes
    if batch_size % everywhere:
        sizes = _or(_nearest(batch_size, lambda size: size % everywhere == 0))
        raise OptionError(
            f"--batch-size {batch_size} is for all devices together, and cannot be shared equally by {everywhere}"
            f"; the nearest that can: {sizes}",
        )
    share = batch_size // everywhere
    if accumulate is not None:
        if share % accumulate:
            counts = _or(_nearest(accumulate, lambda count: share % count == 0, highest=share))
            raise OptionError(
                f"--accumulate {accumulate} does not divide the {plural(share, 'image')} of a device "
                f"(--batch-size {batch_size}); the nearest that do: {counts}",
            )
        images = share // accumulate
        if micro_batch is not None and images > micro_batch:
            raise OptionError(
                f"--accumulate {accumulate} leaves {images} images at a time on a device, more than --micro-batch "
                f"{micro_batch}; add --micro-batch {images}, or leave --accumulate out",
            )
        return BatchPlan(nodes, devices, images, accumulate)
    limit = share if micro_batch is None else micro_batch
    images = _part(share, limit)
    if not images:
        sizes = _or([size * everywhere for size in _nearest(share, lambda size: _part(size, limit) > 0)])
        raise OptionError(
            f"the {plural(share, 'image')} of a device (--batch-size {batch_size}) have no equal parts of "
            f"{(limit + 1) // 2} to {limit} images (--micro-batch); nearest: --batch-size {sizes}",
        )
    return BatchPlan(nodes, devices, images, share // images)


def _part(share: int, limit: int) -> int:
    """Return the largest divisor of a share within the limit, or 0 if it is less than half of that."""
    part = next(size for size in range(min(share, limit), 0, -1) if share % size == 0)
    return part if part == share or 2 * part >= limit else 0


def _nearest(value: int, fits: Callable[[int], bool], highest: int | None = None) -> list[int]:
    """Return the nearest number below a value that fits, and the nearest above."""

    def first(candidates: Iterable[int]) -> list[int]:
        return [n for n in [next((n for n in candidates if fits(n)), None)] if n is not None]

    return first(range(value - 1, 0, -1)) + first(range(value + 1, (highest or 4 * value + 4096) + 1))


def _or(values: list[int]) -> str:
    return " or ".join(map(str, values))


def steps_per_epoch(data: DataModule, plan: BatchPlan) -> int:
    """Count the optimiser steps of an epoch."""
    images = plan.images * plan.accumulate
    return max(1, data.batches_per_epoch * plan.images // images // (plan.devices * plan.nodes))


def epochs_of(options: TrainOptions, data: DataModule, plan: BatchPlan) -> int:
    """Count the epochs of a run, whose length may be given in optimiser steps."""
    if not options.steps:
        return options.epochs or 1
    return math.ceil(options.steps / steps_per_epoch(data, plan))


class Prepared(NamedTuple):
    """What a run needs before its trainer can be built."""

    options: TrainOptions
    """Options of the run, with the image size that the data have chosen."""
    plan: BatchPlan
    """Plan by which the batch is shared out."""
    data: DataModule
    task: Task
    knows_classes: bool = False
    """Whether the task starts from weights of a network that was trained for these classes."""


def prepare(options: TrainOptions, resumed: Path | None) -> Prepared:
    """Share out the batch, open the data, build the task and its network, and load the weights to start from.

    Args:
        options: Options of the run, complete.
        resumed: Checkpoint that the run continues from, if any; Lightning loads it later.

    Raises:
        OptionError: The batch cannot be shared out as the options say.
        TrainingError: The network does not take the images, or a resumed run would become another one.
        DataError: The data cannot be used.
        TaskError: A name or an argument is unknown, or the optimiser cannot train here.
        CheckpointError: The weights to start from cannot be used.
    """
    data = None
    if options.batch_size is None:
        data = options.open_data(1)
        options = options.with_batch_for(data.train_size)
    plan = solve(
        options.batch_size or 0,
        options.devices or 1,
        options.nodes or 1,
        micro_batch=options.micro_batch,
        accumulate=options.accumulate,
    )
    if data is None:
        data = options.open_data(plan.images)
    data.batch_size = plan.images
    epochs = epochs_of(options, data, plan)
    if options.steps:
        options = with_warmup_within(options, epochs)
    if options.warmup_steps:
        before = max(0.0, epochs - options.cooldown_epochs)
        options = with_warmup_steps_within(options, int(before * steps_per_epoch(data, plan)))
    if resumed:
        data = _in_order_of(resumed, data, functools.partial(options.open_data, plan.images))
    if "image_size" in vars(options):
        size: dict[str, Any] = {"image_size": data.spec.to_dict()["input_size"][1]}
        options = dataclasses.replace(options, **size)
    torch.manual_seed(options.seed)
    task = build_task(options, data)
    norms = _require_fit(task)
    knows_classes = False
    if resumed:
        _require_same_task(task, resumed)
    elif options.init_from:
        report = task.start_from(options.init_from, partial=options.init_partial)
        say(in_short(report))
        _tell_other_filter(options.init_from, task)
        knows_classes = report.fits_classes or not report.new
        if report.fits_classes and isinstance(task, ClassificationTask):
            ratios = _fit_classes(task, data, report.classifier, device_here(options.device, options.devices or 1))
            if ratios:  # arguments of the network from now on, also where the run is resumed
                model_args = task.model_args | {"class_ratios": ratios}
                options = dataclasses.replace(options, model_args=model_args)
                task.hparams["model_args"] = model_args
    if options.compile:
        task.compile_network()
    if options.precision == "64-true":
        task.double()  # Lightning would do so after it has copied the weights for the average
    for line in data.notes:
        log.warning(line)
    if norms and plan.images == 1 and not options.synchronizes_norms:
        say(
            f"one image at a time: {plural(len(norms), 'batch norm')} of single values ({norms[0]}"
            f"{', …' if len(norms) > 1 else ''}) keep the statistics that they have; two or more on a device "
            "(--batch-size, --micro-batch) train them"
        )
    return Prepared(options, plan, data, task, knows_classes)


def _tell_other_filter(source: str, task: Task) -> None:
    """Say that the weights of a network of timm's or ours were made with images resized in another way."""
    own = task.data_spec.get("interpolation")
    if task.kind != "classification" or Path(source).exists() or not is_model(source):
        return
    theirs = usual_interpolation(source)
    if own and theirs != own:
        say(f"{source}: its weights are of images resized by {theirs}, here it is {own}; see --interpolation")


def _fit_classes(
    task: ClassificationTask, data: DataModule, classifier: PlainClassifier | None, device: str
) -> list[float] | None:
    """Fit the class embeddings and projections of a contextual network that starts from plain weights.

    Class ratios that nobody chose become wide enough for the classes that early stages cannot tell apart yet.

    Returns:
        The class ratios, if they have become wider.
    """
    model = cast(ContextualNet, task.model)
    loaded = (data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader())
    batches = ((images, labels) for images, labels in loaded if len(images))
    first = next(batches, None)
    if first is None:
        raise TrainingError(f"{data.source}: not one training {data.sample_name} could be read")
    chosen = "class_ratios" in task.model_args
    fit = fit_classes(
        model.to(device), itertools.chain([first], batches), classifier, recall=0.0 if chosen else 0.99
    )
    model.to("cpu")
    say(f"class embeddings and projections fitted to {fit.images} training images")
    if not fit.widened:
        return None
    ratios = ", ".join(f"{ratio:.3g}" for ratio in fit.class_ratios)
    say(f"class_ratios {ratios}: with fewer, a stage would drop the true class of more than 1 % of them")
    return list(fit.class_ratios)


def build_task(options: TrainOptions, data: DataModule) -> Task:
    """Build the task with its network.

    Args:
        options: Options of the run, complete.
        data: Data module that ``options.open_data`` returned.

    Raises:
        TrainingError: The network cannot recompute its activations.
        TaskError: A name or an argument is unknown, or the optimiser cannot train here.
    """
    task = options.build_task(data)
    if options.grad_checkpointing:
        try:
            task.model.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AssertionError, AttributeError) as error:
            raise TrainingError(
                f"{options.model} cannot be trained with --grad-checkpointing; leave it out"
            ) from error
    return task


def _require_fit(task: Task) -> tuple[str, ...]:
    """Give the task one sample of zeros, because some networks refuse small images or all sizes but one.

    Returns:
        Names of the batch norms that a single sample gives one value per channel.

    Raises:
        TrainingError: The network refuses the sample.
    """
    given = task.hparams["model_args"]
    of_arguments = (TypeError, LookupError, AttributeError) if given else ()
    task.train()
    try:
        return task.try_out()
    except (RuntimeError, ValueError, AssertionError, *of_arguments) as error:
        sample = task.example_input()
        shape = " × ".join(map(str, (sample if isinstance(sample, torch.Tensor) else sample[0]).shape[-3:]))
        which = f"{task.hparams['model']} with {given}" if given else task.hparams["model"]
        option = {"detection": "--min-size", "segmentation": "--crop-size"}.get(task.kind, "--image-size")
        raise TrainingError(f"{which} does not take {shape} images; try another {option} ({error})") from error


def _in_order_of(
    checkpoint: Path, data: DataModule, open_again: Callable[[Sequence[str]], DataModule]
) -> DataModule:
    """Return the data with the classes in the order of a resumed run; earlier versions had another order."""
    before, now = load_task(checkpoint).data_spec.get("class_names", ()), data.spec.class_names
    return open_again(tuple(before)) if sorted(before) == sorted(now) and tuple(before) != now else data


def _require_same_task(task: Task, checkpoint: Path) -> None:
    """Refuse another network, or images of other classes or sizes.

    Raises:
        TrainingError: The checkpoint is of another task.
        CheckpointError: The checkpoint cannot be read.
    """
    previous = load_task(checkpoint, trust=True)
    if previous.kind != task.kind:
        raise TrainingError(f"{checkpoint}: its task is {previous.kind}, not {task.kind}")
    for what in ("model", "model_args"):
        if previous.hparams[what] != task.hparams[what]:
            raise TrainingError(f"{checkpoint}: its {what} is {previous.hparams[what]}, not {task.hparams[what]}")
    for what in ("class_names", "input_size"):
        before, now = (t.data_spec.get(what) for t in (previous, task))
        if before != now:
            raise TrainingError(f"{checkpoint}: its {what} is {before}, not {now}")
    if previous.data_spec.get("fingerprint") != task.data_spec.get("fingerprint"):
        log.warning("the images are not those that the run began with; others may be held out now")
