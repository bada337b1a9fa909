"""The options of a training run: those of all tasks here, and a module for each task."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ctxvision.devices import resolved
from ctxvision.recipes import load_recipe
from ctxvision.tasks.registry import module_of, task_named
from ctxvision.tasks.settings import OptimizerSettings
from ctxvision.training.error import OptionError
from ctxvision.wording import option

if TYPE_CHECKING:  # the options are read and shown without what trains
    from ctxvision.data import DataModule
    from ctxvision.tasks import Task

Precision = Literal["32", "16-mixed", "bf16-mixed", "64-true"]
TaskWord = Literal["classification", "classify", "detection", "detect", "segmentation", "segment", "video"]
Ranges = tuple[tuple[str, float, float], ...]
INF = float("inf")


@dataclass(frozen=True)
class TrainOptions(OptimizerSettings, ABC):
    """How to train one network.

    Options that are null depend on the network and the data; `completed` fills them in. A message about an option
    names it as the command line does, ``--lr`` for ``lr``.

    Args:
        model: Name of the network, as `ctxvision models` lists it. On the command line it is the first word.
        data: Folder of images, table, shards or another source, or the name of embedded data, such as "digits". On
            the command line it is the second word.
        task: Name of what the network learns, or its short word. Each task has options of its own, which
            `ctxvision train --task TASK --help` lists.
        recipe: Name of a paper's settings, as `ctxvision recipes` lists them. Options that are set beside the
            recipe change it. If it is null, the options have their own defaults.
        out: Folder that the run writes to. If it is null, the run makes runs/MODEL-DATA-N, with the first free
            number N.
        resume: Run folder, or checkpoint in one, that the run continues from. The option without a value continues
            the run in the folder --out. If it is null, a new run begins.
        init_from: Weights that the training starts from, as a file, a run folder (whose best checkpoint is taken)
            or the name of one of timm's pretrained networks. If it is null, the weights are random.
        init_partial: Whether to load those weights of --init-from that fit, even from quite another network.
        epochs: Number of passes over the training data. If it is null, it depends on the data.
        steps: Number of optimiser steps, rounded up to whole epochs, instead of --epochs. If it is null, --epochs
            counts.
        val_every: Number of epochs from one validation to the next. The last epoch is always validated.
        batch_size: Number of images per optimiser step, over all devices. If it is null, it follows from the
            number of training images, so that an epoch has some ten steps or more.
        micro_batch: Largest number of images that a device computes with at a time; gradients of more images are
            accumulated. If it is null, there is no limit.
        accumulate: Number of parts into which a device divides its share of the batch. If it is null, it follows
            from --micro-batch.
        lr: Highest learning rate. It does not change with the batch size. If it is null, it depends on the data
            and the optimiser.
        weight_decay: Weight decay of all parameters but norms, biases (see decay_norms), class embeddings and
            temperature. If it is null, it depends on the data and the optimiser.
        warmup_epochs: Number of epochs during which the learning rate rises. If it is null, it depends on the
            data, and is at most a fifth of the epochs.
        drop_path_rate: Probability of stochastic depth in the network's last block. The value 0 turns it off.
        ema: Decay of an exponential moving average of the weights, which is then what is validated and saved. The
            value 0 turns it off.
        clip_grad: Largest norm of the gradient; a longer gradient is scaled down. The value 0 means no limit.
        skip_nan: Number of optimiser steps that may be left out in a run because their loss or gradient is not
            finite. One more ends the run.
        save_minutes: Minutes between two checkpoints within an epoch. The value 0 writes one at the end of epochs
            only.
        save_top_k: Number of best checkpoints to keep. Of more than one, those of earlier epochs are
            epoch-NUMBER.ckpt beside best.ckpt.
        early_stopping: Number of validations in a row without a better result that end the run. The value 0
            trains all epochs.
        logger: Trackers that receive the metrics beside metrics.csv: tensorboard, wandb, or class paths of other
            loggers of Lightning with their arguments, such as lightning.pytorch.loggers.MLFlowLogger; csv means
            none. If it is null, it is TensorBoard where that is installed.
        callbacks: Callbacks of Lightning, by class path with their arguments, in addition to our own. On the
            command line --callbacks my.Callback --callbacks.argument value, once for each. Null means no more.
        log_every: Number of optimiser steps between two lines where there is no terminal for a bar, and between
            two points for the trackers. If it is null, there is a line every 30 seconds, a point every 10 steps.
        quiet: Whether to show no progress; the run folder's train.log has the epochs all the same.
        pictures: Whether to draw the curves of the run, and to write its report at the end.
        model_args: More arguments of the network's constructor, as JSON or YAML. Null means no more arguments.
        val_fraction: Share of the data that is held out for validation where the data have no validation part,
            more than 0 and less than 1.
        split_seed: Number that chooses which data are held out.
        strict: Whether to stop at the first image that cannot be read instead of skipping it.
        seed: Seed of the random weights, the order of the images and everything else that is random.
        workers: Number of processes that decode images. If it is null, there are up to 8, as many as processors,
            and none for embedded data.
        prefetch: Number of batches that each worker process keeps ready.
        precision: Number format of the arithmetic: 32 bits, 16 or bfloat16 mixed with 32, or 64.
        device: Device to train on: cpu, cuda, cuda:1, mps, or auto for CUDA where there is any. --devices says how
            many of this kind.
        devices: Number of devices on each node. If it is null, it is one, or as many as torchrun or SLURM have
            started processes for.
        nodes: Number of machines. If it is null, it is one, or as many as torchrun or SLURM have started processes
            on.
        strategy: Way in which several devices share the work. With fsdp they share out parameters and optimiser
            state; with auto each device keeps a copy.
        sync_batchnorm: Whether batch norms take their statistics over all GPUs instead of each GPU by itself.
        channels_last: Whether images and weights lie in memory in the channels-last layout, which is faster for
            these networks.
        compile: Whether to compile the network with torch.compile.
        grad_checkpointing: Whether to recompute activations in the backward pass instead of keeping them, which
            takes less memory and more time.
    """

    model: str | None = None
    data: str = "digits"
    task: TaskWord = "classification"
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
    weight_decay: float | None = None
    warmup_epochs: float | None = None
    drop_path_rate: float = 0.0
    ema: float = 0.0
    clip_grad: float = 0.0
    skip_nan: int = 0
    save_minutes: float = 15.0
    save_top_k: int = 1
    early_stopping: int = 0
    logger: list[Any] | None = None
    callbacks: list[Any] | None = None
    log_every: int | None = None
    quiet: bool = False
    pictures: bool = True
    model_args: dict[str, Any] | None = None
    val_fraction: float = 0.2
    split_seed: int = 0
    strict: bool = False
    seed: int = 0
    workers: int | None = None
    prefetch: int = 4
    precision: Precision = "32"
    device: str = "auto"
    devices: int | None = None
    nodes: int | None = None
    strategy: Literal["auto", "fsdp"] = "auto"
    sync_batchnorm: bool = True
    channels_last: bool = True
    compile: bool = False
    grad_checkpointing: bool = False

    ranges: ClassVar[Ranges] = ()
    """Lowest and highest values of the options that a task adds."""

    def only(self, names: Collection[str]) -> dict[str, Any]:
        """Return those options whose names are among the given ones, for example those of a data module."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name in names}

    @property
    def recipe_settings(self) -> dict[str, Any]:
        """The settings of the recipe for this network, by their names; empty without a recipe."""
        return load_recipe(self.recipe).settings_for(self.model or "") if self.recipe else {}

    @property
    def synchronizes_norms(self) -> bool:
        """Whether batch norms take their statistics over the images of all devices, which only GPUs can do."""
        several = (self.devices or 1) * (self.nodes or 1) > 1
        return several and resolved(self.device) == "cuda" and self.sync_batchnorm

    @abstractmethod
    def defaults(self, processors: int) -> dict[str, Any]:
        """Return the values of options that are null.

        Args:
            processors: Number of processors that this process may use.
        """

    @abstractmethod
    def open_data(self, batch_size: int, class_names: Sequence[str] | None = None) -> "DataModule":
        """Open the data as a LightningDataModule.

        Args:
            batch_size: Number of samples that a device computes with at a time.
            class_names: Names of the classes of the data in the order that a resumed run began with; tasks whose
                data fix the order of the classes have no use for it.

        Raises:
            OptionError: An option is set that these data do not have.
            DataError: The data cannot be used.
        """

    @abstractmethod
    def build_task(self, data: "DataModule") -> "Task":
        """Build the LightningModule of the task, with its network.

        Args:
            data: Data module that `open_data` returned.

        Raises:
            TaskError: A name or an argument is unknown.
        """

    def check(self) -> None:
        """Check options of the task that have no simple range.

        Raises:
            OptionError: A value cannot be used.
        """

    def completed(self, processors: int) -> "TrainOptions":
        """Return the options with every null that depends on network and data filled in, and all values checked.

        Args:
            processors: Number of processors that this process may use.

        Raises:
            OptionError: A value is missing or out of range.
        """
        if not self.model:
            raise OptionError("name a model, for example `ctxvision train cotnet_micro digits`")
        if self.steps and self.epochs:
            raise OptionError(
                f"give --steps or --epochs, not both (got {self.steps} and {self.epochs}); null is none"
            )
        if self.batch_size is None and self.knows_images:
            return dataclasses.replace(self, batch_size=self.largest_batch).completed(processors)
        defaults = self.defaults(processors)
        if self.batch_size is None:
            del defaults["batch_size"]  # see `with_batch_for`
        if self.steps:
            defaults.pop("epochs", None)
        filled = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        options = dataclasses.replace(self, **filled)
        if "warmup_epochs" in filled:
            warmup = min(filled["warmup_epochs"], (options.epochs or INF) / 5)
            options = dataclasses.replace(options, warmup_epochs=warmup)
        options._check_ranges()
        options.check()
        from ctxvision.training import processes

        devices, nodes = processes.counts(options.devices, options.nodes)
        return dataclasses.replace(options, devices=devices, nodes=nodes)

    def with_batch_for(self, images: int) -> "TrainOptions":
        """Return the options with a batch that makes ten steps or more of an epoch, if none is set.

        The size is a power of two on every device, at least 4 (the statistics of batch norms need some images),
        and at most the recipe's or the task's.

        Args:
            images: Number of training images.
        """
        if self.batch_size is not None:
            return self
        devices = (self.devices or 1) * (self.nodes or 1)
        most = max(1, self.largest_batch // devices)
        share = max(_STEPS_LEAST_IMAGES, images // (_STEPS * devices))
        share = min(most, 1 << (share.bit_length() - 1))
        if self.accumulate:
            share = max(1, share // self.accumulate) * self.accumulate
        options = dataclasses.replace(self, batch_size=share * devices)
        return dataclasses.replace(options, lr=self.lr or options.defaults(1)["lr"])

    @property
    def knows_images(self) -> bool:
        """Whether there are so many images that the largest batch makes ten steps, without a look at the data."""
        return False

    @property
    def largest_batch(self) -> int:
        """The number of images of an optimiser step where there are enough: the recipe's, or the task's."""
        return int(self.recipe_settings.get("batch_size") or self.defaults(1)["batch_size"])

    def _check_ranges(self) -> None:
        for names, lowest, highest in (*_RANGES, *self.ranges):
            for name in names.split():
                value = getattr(self, name)
                if value is not None and not lowest <= value <= highest:
                    limits = f"at least {lowest:g}" if highest == INF else f"between {lowest:g} and {highest:g}"
                    raise OptionError(f"{option(name)} must be {limits}, got {value}")
        if not 0 < self.val_fraction < 1:
            raise OptionError(f"--val-fraction must be more than 0 and less than 1, got {self.val_fraction}")
        for name in ("lr", "layer_decay", "offset_lr_scale"):
            if getattr(self, name) == 0:
                raise OptionError(f"{option(name)} must be more than 0")
        if self.lr is not None and self.min_lr > self.lr:
            raise OptionError(f"--min-lr must not be more than --lr, got {self.min_lr} and {self.lr}")
        at_ends = (self.warmup_epochs or 0) + self.cooldown_epochs
        if self.warmup_steps is None and self.cooldown_epochs and at_ends >= (self.epochs or INF):
            raise OptionError(
                f"--warmup-epochs and --cooldown-epochs must be less than --epochs together, got "
                f"{self.warmup_epochs or 0:g}, {self.cooldown_epochs:g} and {self.epochs}"
            )
        if self.warmup_steps is None and (self.warmup_epochs or 0) >= (self.epochs or INF):
            raise OptionError(
                f"--warmup-epochs must be less than --epochs, got {self.warmup_epochs:g} and {self.epochs}"
            )


_STEPS = 10  # of an epoch, where the batch is chosen by the number of images
_STEPS_LEAST_IMAGES = 4

_RANGES: Ranges = (
    ("epochs steps val_every log_every save_top_k batch_size micro_batch accumulate", 1, INF),
    ("devices nodes prefetch", 1, INF),
    ("lr min_lr weight_decay offset_lr_scale", 0, INF),
    ("warmup_epochs cooldown_epochs clip_grad save_minutes", 0, INF),
    ("seed split_seed workers skip_nan warmup_steps early_stopping", 0, INF),
    ("drop_path_rate ema layer_decay warmup_factor", 0, 1),
)


def require_no_advice(data: str, task: str) -> None:
    """Refuse a folder that holds the data of another task, or labels that are not read.

    Raises:
        OptionError: It is such a folder; the message says what to do.
    """
    from ctxvision.data.recognize import advice_about

    if advice := advice_about(data, task):
        raise OptionError(advice)


def options_class(task: str) -> type[TrainOptions]:
    """Return the options class of a task, such as `ctxvision.training.DetectionOptions`.

    Args:
        task: Name of the task, for example ``"detection"``, or the word of the command line for it, ``"detect"``.

    Raises:
        ValueError: There is no such task.

    Examples:
        >>> options_class("detect").__name__
        'DetectionOptions'
    """
    module = module_of("training.options", task)
    found: type[TrainOptions] = getattr(module, f"{task_named(task).capitalize()}Options")
    return found
