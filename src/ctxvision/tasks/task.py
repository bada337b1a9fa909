"""What every task is: a network with its loss, its metrics, its optimiser and schedule, and its checkpoint."""

import dataclasses
import inspect
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar, final

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric

from ctxvision._version import __version__
from ctxvision.checkpoints import WarmStartReport, warm_start
from ctxvision.checkpoints.sources import Source
from ctxvision.data import Spec

from .error import TaskError
from .features import FeatureBackbone
from .fine_tuning import continue_from, for_other_classes, other_class_sets, read_trained
from .networks import has_stage_outputs, keep_statistics, single_value_norms
from .optimization import Optimization, build_optimizer, build_schedule, require_optimizer, require_usable

_log = logging.getLogger(__name__)
TaskType = TypeVar("TaskType", bound="Task")


class Task(LightningModule, ABC):
    """A network with its loss, metrics and optimiser: what every task is to the rooms above it.

    A subclass takes plain Python values only, which travel in the checkpoint (see `load_task`). Its constructor
    calls ``super().__init__()``, ``save_hyperparameters()``, `begin`, and sets ``model``.

    Attributes:
        kind: The name of the task, as the checkpoint and `ctxvision.tasks.registry` call it.
        monitor: The validation metric for which a checkpoint is best; higher is better.
        monitor_name: The words for this metric in messages.
        sample_name: The word for a sample, such as ``"image"``.
        defaults: The fields of `Optimization` where the arguments do not say.
        columns: The validation metrics for ``metrics.csv``.
        model: The network whose parameters are trained.
        data_spec: The description of the data as it travels in the checkpoint, see `spec`.
        leave_out_nonfinite: Whether a callback leaves out steps whose loss is not finite, which then do not count.
    """

    kind: ClassVar[str]
    monitor: ClassVar[str]
    monitor_name: ClassVar[str]
    sample_name: ClassVar[str] = "image"
    defaults: ClassVar[Optimization] = Optimization()
    columns: tuple[str, ...]
    model: nn.Module
    data_spec: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        # A mean over samples, NaN included; every process takes part in it, also one whose samples were all bad.
        # It is updated with one value per sample: torchmetrics 1.9 ignores weights where NaN is not checked.
        self.train_mean = MeanMetric("disable").set_dtype(torch.float32)  # whatever torch's default dtype is
        self.leave_out_nonfinite = False
        self._batches_with_samples = 0
        self._told_left_out = False
        self._single_value_norms: tuple[str, ...] | None = None
        self._statistics_kept = False

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Name the options that the constructor takes besides the network's name and the description of the data.

        Examples:
            >>> from ctxvision.tasks import ClassificationTask
            >>> {"mixup", "lr"} <= set(ClassificationTask.option_names())
            True
        """
        parameters = inspect.signature(cls.__init__).parameters.values()
        own = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        return (*own, *_OPTIMIZATION)

    @classmethod
    def from_options(cls: type[TaskType], model: str, spec: Spec, options: object) -> TaskType:
        """Build a task for training from an object that has its options as attributes, such as those of a run.

        Args:
            model: The registered name of the network.
            spec: The description of the data.
            options: The object; an option that it does not have keeps its default.

        Raises:
            TaskError: A name is unknown, options do not fit, or the optimiser cannot train here.
        """
        given = {name: getattr(options, name) for name in cls.option_names() if hasattr(options, name)}
        require_optimizer(given.get("optimizer", cls.defaults.optimizer), given.get("optimizer_args"))
        return cls(model, spec.to_dict(), **given)  # type: ignore[call-arg] # subclasses take these

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """The description of the data.

        Raises:
            DataError: The task was built from less than a whole description.
        """

    @property
    def model_name(self) -> str:
        """The registered name of the network, or of the backbone."""
        return str(self.hparams["model"])

    @property
    def model_args(self) -> dict[str, Any]:
        """The arguments of the network's constructor beside those that the task itself gives."""
        return dict(self.hparams["model_args"] or {})

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, in the order of the network's outputs."""
        return tuple(self.data_spec["class_names"])

    @property
    def optimization(self) -> Optimization:
        """How the network is optimised, from the task's arguments."""
        return Optimization(**{name: self.hparams[name] for name in _OPTIMIZATION})

    def begin(self, data_spec: Mapping[str, Any], optimization: Mapping[str, Any]) -> None:
        """Keep the description of the data and how the network is optimised; find wrong settings before the run.

        Args:
            data_spec: The fields of a `Spec`.
            optimization: The fields of `Optimization` that the task was given; ``defaults`` has the others.

        Raises:
            TaskError: The optimiser is unknown, or it or the schedule does not take its arguments.
            TypeError: `Optimization` has no such field.
        """
        self.data_spec = dict(data_spec)
        o = dataclasses.replace(self.defaults, **optimization)
        self.hparams.update({name: getattr(o, name) for name in _OPTIMIZATION})
        require_usable(o)

    @property
    @abstractmethod
    def backbone(self) -> FeatureBackbone | None:
        """The part of the network that has a classifier's weights; ``None`` where that is all of it."""

    @final
    def start_from(self, source: Source, *, partial: bool = False) -> WarmStartReport:
        """Load trained weights into the network, or into its backbone.

        A trained network of the same task is loaded with neck and heads, but for what belongs to other classes;
        torchvision's detectors with FPN count as trained detectors. For all else see
        `ctxvision.checkpoints.warm_start`.

        Args:
            source: A file, a run folder, a trained task, a state dict, a network, or the name of one of timm's
                pretrained networks.
            partial: Whether to take what fits, even of quite another network.

        Raises:
            CheckpointError: The weights cannot be used; the network is unchanged.
        """
        trained = read_trained(source)
        if trained is not None:
            if line := other_class_sets(self, trained):
                _log.warning(line)
            if (report := continue_from(self, trained, partial=partial)) is not None:
                return report
            source = for_other_classes(self, trained)
        name = trained.where if trained else None
        if self.backbone is None:
            return warm_start(self.model, source, source_name=name, partial=partial)
        return self.backbone.start_from(source, source_name=name, partial=partial)

    @abstractmethod
    def example_input(self) -> Any:
        """Return the smallest input that `forward` takes as the task is set up: one sample of zeros."""

    @abstractmethod
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch; it is `loss_of_nothing` where all samples of the batch were bad."""

    @abstractmethod
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Update the metrics with a batch, and return what callbacks may want to see."""

    def tell_left_out(self, left_out: list[str]) -> None:
        """Log once which classes the monitored mean leaves out.

        Args:
            left_out: The names of these classes.
        """
        if (
            left_out
            and not self._told_left_out
            and self.trainer.is_global_zero
            and not self.trainer.sanity_checking
        ):
            self._told_left_out = True
            _log.warning("%s is %s", self.monitor_name, over_classes(len(self.class_names), left_out))

    def try_out(self) -> tuple[str, ...]:
        """Give the task one sample in evaluation mode, whatever that raises.

        Returns:
            The names of the batch norms that a single sample gives one value per channel; see
            `single_value_norms`.
        """

        def run() -> None:
            sample = self.example_input()
            on_device = [s.to(self.device) for s in sample] if isinstance(sample, list) else sample.to(self.device)
            self.run_once(on_device)

        self._single_value_norms = single_value_norms(self.model, run)
        return self._single_value_norms

    def run_once(self, sample: Any) -> None:
        """Run the network on a sample of `example_input`, through every part that training uses."""
        self(sample)

    def expect(self, samples: int) -> None:
        """Prepare the network for a training batch: of a single sample some norms cannot take statistics.

        Args:
            samples: The number of samples of the batch.
        """
        if self._single_value_norms is None and samples == 1:
            self.try_out()
        if samples == 1 or self._statistics_kept:  # else norms are left as others have set them
            keep_statistics(self.model, self._single_value_norms or (), samples == 1)
        self._statistics_kept = samples == 1

    def loss_of_nothing(self, name: str = "train_loss") -> Tensor:
        """Return a loss of 0 whose gradients are 0, so that this process takes part in the all-reduce.

        Args:
            name: The name that the epoch's mean loss is logged under.
        """
        self._update_train_mean(torch.zeros((), dtype=torch.float32, device=self.device), 0, name)
        start = torch.zeros((), dtype=torch.float32, device=self.device)
        return sum((p.sum() * 0.0 for p in self.parameters() if p.requires_grad), start)

    def log_train_loss(self, loss: Tensor, samples: int, name: str = "train_loss") -> None:
        """Count the loss of a batch in the epoch's mean.

        Args:
            loss: The mean loss of the batch, a scalar.
            samples: The number of samples of the batch.
            name: The name that the epoch's mean loss is logged under.
        """
        self._batches_with_samples += 1
        self._update_train_mean(loss.detach(), samples, name)

    def epoch_sums(self) -> dict[str, Tensor]:
        """Return what this process has counted of the epoch so far, for a checkpoint within the epoch.

        Returns:
            Scalars that add up over processes: ``loss`` (sum over samples), ``images`` (number of samples) and
            ``batches`` (number of batches with samples).
        """
        loss, images = torch.as_tensor(self.train_mean.mean_value), torch.as_tensor(self.train_mean.weight)
        return {"loss": loss, "images": images, "batches": images.new_tensor(self._batches_with_samples)}

    def add_to_epoch(self, sums: Mapping[str, float]) -> None:
        """Count what was counted before the run was interrupted in the middle of this epoch.

        Args:
            sums: The values that `epoch_sums` returned at that time, added up over all processes.
        """
        mean = self.train_mean
        mean.mean_value = torch.as_tensor(mean.mean_value) + sums["loss"]
        mean.weight = torch.as_tensor(mean.weight) + sums["images"]
        self._batches_with_samples += int(sums["batches"])

    def _update_train_mean(self, loss: Tensor, samples: int, name: str) -> None:
        if self.leave_out_nonfinite:
            finite = loss.isfinite()
            loss, samples = torch.where(finite, loss, 0.0), samples * int(finite)
        self.train_mean.update(loss.expand(samples))
        self.log(name, self.train_mean, on_step=False, on_epoch=True, prog_bar=True)

    def on_train_epoch_start(self) -> None:
        """Begin to count batches."""
        self._batches_with_samples = 0

    def on_train_epoch_end(self) -> None:
        """Stop a run that has failed, before its weights overwrite a checkpoint.

        Raises:
            TaskError: The loss is not finite, or no sample could be read.
        """
        counted = torch.tensor(float(self._batches_with_samples), dtype=torch.float32, device=self.device)
        if not self.trainer.strategy.reduce(counted, reduce_op="sum").item():
            raise TaskError(f"not one training {self.sample_name} could be read in this epoch")
        loss = self.trainer.callback_metrics.get("train_loss")
        if loss is not None and not torch.isfinite(loss):
            raise TaskError(
                f"the training loss became {loss.item()} in epoch {self.current_epoch + 1}; "
                "lower the learning rate, clip gradients or use 32-bit precision"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build timm's optimiser and schedule, which moves after every optimiser step."""
        o = self.optimization
        require_optimizer(o.optimizer, o.optimizer_args)
        optimizer = build_optimizer(self.model, o)
        epochs = max(self.trainer.max_epochs or 1, 1)
        schedule = build_schedule(optimizer, o, epochs=epochs, steps_per_epoch=self._steps_per_epoch())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _steps_per_epoch(self) -> int:
        batches = getattr(getattr(self.trainer, "datamodule", None), "batches_per_epoch", None)
        if batches is None:
            return math.ceil(self.trainer.estimated_stepping_batches / max(self.trainer.max_epochs or 1, 1))
        # the trainer's estimate would begin to read images before a resumed run knows where it stopped
        return math.ceil(int(batches) / self.trainer.accumulate_grad_batches)

    def lr_scheduler_step(self, scheduler: Scheduler, metric: Any) -> None:
        """Set the learning rate of the next optimiser step."""
        scheduler.step_update(self.trainer.global_step)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Forget the schedule of a run that is resumed: it follows from the step, and from the epochs of now."""
        checkpoint["lr_schedulers"] = []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Mark the file as a checkpoint of this library: the name of the task and the version."""
        checkpoint["ctxvision"] = {"task": self.kind, "version": __version__}

    def compile_network(self, **options: Any) -> None:
        """Let ``torch.compile`` compile the network when it is first used; names and weights stay.

        Args:
            options: The options of ``torch.compile``.
        """
        if has_stage_outputs(self.model):
            compiled = torch.compile(self.model.forward_stages, **options)
            self.model.forward_stages = compiled  # type: ignore[method-assign]
        else:
            self.model.compile(**options)


_OPTIMIZATION = tuple(field.name for field in dataclasses.fields(Optimization))


def undefined(names: Sequence[str], values: Sequence[float]) -> list[str]:
    """Return the classes whose value is NaN: nothing is there to measure them on."""
    return [name for name, value in zip(names, values, strict=True) if math.isnan(value)]


def over_classes(count: int, left_out: Sequence[str], limit: int = 5) -> str:
    """Say which classes a mean leaves out; empty where it leaves out none.

    Examples:
        >>> over_classes(2, ["lesion"])
        "over 1 of 2 classes, without 'lesion'"
    """
    if not left_out:
        return ""
    named = ", ".join(map(repr, left_out[:limit]))
    more = f" and {len(left_out) - limit} more" if len(left_out) > limit else ""
    return f"over {count - len(left_out)} of {count} classes, without {named}{more}"
