"""The settings of a training run that every kind of task has, and their checks."""

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ctxvision.training.error import OptionError
from ctxvision.training.processes import launch as processes

if TYPE_CHECKING:
    from ctxvision.tasks import Task

Precision = Literal["32", "16-mixed", "bf16-mixed", "64-true"]
LoggerName = Literal["csv", "tensorboard", "wandb", "trackio"]
TaskName = Literal["classify", "detect", "segment", "video"]
Ranges = tuple[tuple[str, float, float], ...]
INF = float("inf")


@dataclass(frozen=True)
class TrainConfig:
    """How to train one network; what is null depends on the data and is filled in by `completed`.

    Args:
        model: name of the network, see `ctxvision models`; also the first word of the command line.
        data: folder of images, "digits", or another source; also the second word of the command line.
        task: what the network learns; each has settings of its own, see `ctxvision train --task TASK --help`.
        recipe: settings of a paper, see `ctxvision recipes`; what is set beside it changes them.
        out: run folder; by default runs/MODEL-DATA-N.
        resume: continue the run in this folder, or from this checkpoint; alone, continue the run in --out.
        init_from: start from the weights in this file, or from timm's pretrained network of this name; a run
            folder stands for its best checkpoint.
        init_partial: take what fits of them, even if they are of quite another network.
        epochs: passes over the training images.
        steps: optimiser steps instead of epochs, rounded up to whole epochs.
        val_every: epochs between two validations; the last epoch is always validated.
        batch_size: images per optimiser step, over all devices.
        micro_batch: most images at a time on a device; more are accumulated.
        accumulate: in how many parts a device takes its share of the batch; by default as micro_batch demands.
        lr: highest learning rate; it does not follow the batch size.
        optimizer: a name of timm's (sgd is Nesterov's, momentum the plain one, adamw, lamb, muon).
        optimizer_args: more arguments of the optimiser, as JSON or YAML, such as betas or eps.
        weight_decay: not applied to norms, biases, class embeddings and temperature.
        layer_decay: ratio of the learning rates of neighbouring layers; null is the same for all.
        schedule: of the learning rate after the warm-up.
        schedule_args: more arguments of timm's schedule, such as decay_milestones and decay_rate.
        warmup_epochs: during which the learning rate rises.
        warmup_steps: optimiser steps during which it rises, instead of warmup_epochs.
        warmup_factor: the share of the learning rate that it rises from.
        min_lr: learning rate at the end of cosine and poly.
        drop_path_rate: stochastic depth.
        ema: decay of a moving average of the weights, which is then what is validated and saved; 0 is off.
        clip_grad: largest norm of the gradient; 0 is no limit.
        skip_nan: how many steps may be left out because their loss or gradient is not finite.
        save_minutes: how often a checkpoint is written within an epoch; 0 is only at its end.
        logger: where numbers go beside metrics.csv, any of tensorboard, wandb, trackio; csv is nowhere; by default
            TensorBoard where it is installed.
        pictures: draw curves, and for classes the confusion matrix and the worst images.
        model_args: more arguments of the network's constructor, as JSON or YAML.
        strict: stop at the first bad image instead of skipping it.
        seed: of the weights, the order of the images and everything else that is random.
        workers: processes that decode images.
        prefetch: batches that each of them keeps ready.
        precision: of the arithmetic.
        accelerator: cpu, gpu, mps or auto.
        devices: how many, on each node; by default one, or what torchrun or SLURM has started.
        nodes: how many machines; likewise.
        strategy: fsdp shares parameters and optimiser state out among the devices; auto keeps a copy on each.
        sync_batchnorm: batch normalisation over all GPUs instead of each by itself.
        channels_last: memory layout; faster for these networks.
        compile: translate the network with torch.compile.
        grad_checkpointing: recompute activations instead of keeping them; less memory, more time.
    """

    model: str | None = None
    data: str = "digits"
    task: TaskName = "classify"
    recipe: str | None = None
    out: str | None = None
    resume: str | None = None
    init_from: str | None = None
    init_partial: bool = False
    epochs: int | None = None
    steps: int | None = None
    val_every: int = 1
    batch_size: int | None = None
    micro_batch: int | None = None
    accumulate: int | None = None
    lr: float | None = None
    optimizer: str = "adamw"
    optimizer_args: dict[str, Any] | None = None
    weight_decay: float | None = None
    layer_decay: float | None = None
    schedule: Literal["cosine", "poly", "step", "multistep"] = "cosine"
    schedule_args: dict[str, Any] | None = None
    warmup_epochs: float | None = None
    warmup_steps: int | None = None
    warmup_factor: float = 0.0
    min_lr: float = 0.0
    drop_path_rate: float = 0.0
    ema: float = 0.0
    clip_grad: float = 0.0
    skip_nan: int = 0
    save_minutes: float = 15.0
    logger: list[LoggerName] | None = None
    pictures: bool = True
    model_args: dict[str, Any] | None = None
    strict: bool = False
    seed: int = 0
    workers: int | None = None
    prefetch: int = 4
    precision: Precision = "32"
    accelerator: str = "auto"
    devices: int | None = None
    nodes: int | None = None
    strategy: Literal["auto", "fsdp"] = "auto"
    sync_batchnorm: bool = True
    channels_last: bool = True
    compile: bool = False
    grad_checkpointing: bool = False

    ranges: ClassVar[Ranges] = ()
    """Lowest and highest values of the settings that a kind of task adds."""

    @abstractmethod
    def defaults(self, processors: int) -> dict[str, Any]:
        """Return what stands for settings that were left open.

        Args:
            processors: how many this process may use.
        """

    @abstractmethod
    def open_data(self, batch_size: int, class_names: Sequence[str] | None = None) -> Any:
        """Open the data as a LightningDataModule.

        Args:
            batch_size: samples at a time on a device.
            class_names: the same classes in the order of a run which began with it; of images and videos.

        Raises:
            TrainingError: an option that these data do not have.
            DataError: they cannot be used.
        """

    @abstractmethod
    def build_task(self, data: Any) -> "Task":
        """Build the task with its network.

        Raises:
            TaskError: unknown names or arguments.
        """

    @abstractmethod
    def check(self) -> None:
        """Check what has no simple range.

        Raises:
            TrainingError: a value cannot be used.
        """

    def completed(self, processors: int) -> "TrainConfig":
        """Fill in what was left open, and check the rest.

        Args:
            processors: how many this process may use.

        Raises:
            TrainingError: a value is missing or out of range.
        """
        if not self.model:
            raise OptionError("name a model, for example `ctxvision train cotnet_micro digits`")
        if self.steps and self.epochs:
            raise OptionError(
                f"give --steps or --epochs, not both (got {self.steps} and {self.epochs}); null is none"
            )
        defaults = self.defaults(processors)
        if self.steps:
            defaults.pop("epochs", None)
        filled = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        config = dataclasses.replace(self, **filled)
        if "warmup_epochs" in filled:
            warmup = min(filled["warmup_epochs"], (config.epochs or INF) / 5)
            config = dataclasses.replace(config, warmup_epochs=warmup)
        config._check_ranges()
        config.check()
        devices, nodes = processes.counts(config.devices, config.nodes)
        return dataclasses.replace(config, devices=devices, nodes=nodes)

    def _check_ranges(self) -> None:
        for names, lowest, highest in (*_RANGES, *self.ranges):
            for name in names.split():
                value = getattr(self, name)
                if value is not None and not lowest <= value <= highest:
                    limits = f"at least {lowest:g}" if highest == INF else f"between {lowest:g} and {highest:g}"
                    raise OptionError(f"--{name} must be {limits}, got {value}")
        for name in ("lr", "layer_decay"):
            if getattr(self, name) == 0:
                raise OptionError(f"--{name} must be more than 0")
        if self.min_lr > (self.lr or 0):
            raise OptionError(f"--min_lr must not be more than --lr, got {self.min_lr} and {self.lr}")
        if self.warmup_steps is None and (self.warmup_epochs or 0) >= (self.epochs or INF):
            raise OptionError(
                f"--warmup_epochs must be less than --epochs, got {self.warmup_epochs:g} and {self.epochs}"
            )


_RANGES: Ranges = (
    ("epochs steps val_every batch_size micro_batch accumulate devices nodes prefetch", 1, INF),
    ("lr min_lr weight_decay warmup_epochs clip_grad save_minutes", 0, INF),
    ("seed workers skip_nan warmup_steps", 0, INF),
    ("drop_path_rate ema layer_decay warmup_factor", 0, 1),
)
