"""Lightning's trainer with everything that looks after a run, its trackers, and ``--strategy fsdp``."""

import importlib.util
import json
import logging
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from ctxvision._extras import install_command
from ctxvision.devices import resolved, why_unusable
from ctxvision.files import keep_aside, write_whole
from ctxvision.foreign import file_name
from ctxvision.runs import RunFolder
from ctxvision.tasks import Task
from ctxvision.wording import option

from . import class_paths
from .callbacks import (
    Curves,
    EpochLines,
    EpochSoFar,
    FiniteSteps,
    GracefulStop,
    LastEpochValidated,
    MetricsFile,
    RunCheckpoints,
    RunProgressBar,
    StepLines,
    StepSeed,
    TrackedRate,
)
from .error import OptionError, TrainingError
from .options import TrainOptions
from .preparation import BatchPlan
from .processes import rank
from .run_folder import RunCheckpointIO
from .run_log import FILE_ONLY

log = logging.getLogger(__name__)

# what works on each element by itself; others need whole matrices, norms of layers or the like
_OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")

_BLOCK = re.compile(r"(^|\.)(layer\d+|blocks)(\.\d+)+$")


def make_trainer(
    options: TrainOptions,
    plan: BatchPlan,
    epochs: int,
    run: RunFolder,
    task: Task,
    loggers: list[Logger],
    own: Sequence[Callback] = (),
    *,
    knows_classes: bool = False,
) -> tuple[Trainer, GracefulStop, RunCheckpoints]:
    """Build the trainer of a run.

    Args:
        options: Options of the run, complete.
        plan: Plan by which the batch is shared out.
        epochs: Number of epochs.
        run: Folder of the run.
        task: Task that will be trained; with the strategy fsdp its network is sharded when the processes have met.
        loggers: Loggers of the trackers.
        own: Callbacks of the user.
        knows_classes: Whether the task starts from weights of a network for these classes: it is validated before
            the first step, and the checkpoint of then is the best until another is better.

    Returns:
        The trainer, and the two of its callbacks that know how the run went.

    Raises:
        TrainingError: Lightning has no such accelerator or devices.
    """
    bar = sys.stderr.isatty() and not options.quiet
    stop = GracefulStop(run.last)
    checkpoints = RunCheckpoints(run, task.monitor, options.save_minutes, options.save_top_k)
    metrics = MetricsFile(run, task.columns)
    callbacks: list[Callback] = [
        StepSeed(options.seed),
        LastEpochValidated(),
        FiniteSteps(options.skip_nan, run.last),
        EpochSoFar(),
        metrics,
        TrackedRate(metrics, options.log_every or 10),
        EpochLines(task.monitor, task.monitor_name, FILE_ONLY if bar or options.quiet else None),
    ]
    if options.pictures:
        callbacks.append(Curves(run.path / "curves.png", metrics))
    if bar:
        callbacks.append(RunProgressBar())
    elif not options.quiet:
        callbacks.append(StepLines(options.log_every))
    if options.ema:
        callbacks.append(EMAWeightAveraging(decay=options.ema))
    if options.early_stopping:
        callbacks.append(EarlyStopping(task.monitor, patience=options.early_stopping, mode="max"))
    callbacks += own
    callbacks += [stop, checkpoints]  # after the average has been updated
    sharded, synchronized = options.strategy == "fsdp", options.synchronizes_norms
    strategy = make_sharded(options) if sharded else "auto"
    kind, devices = accelerator_of(options)
    if sharded:
        shard_when_ready(task, sync_batchnorm=synchronized)
    try:
        trainer = Trainer(
            accelerator=kind,
            strategy=strategy,
            devices=devices,
            num_nodes=options.nodes or 1,
            precision="32" if sharded and options.precision == "64-true" else options.precision,
            max_epochs=epochs,
            check_val_every_n_epoch=options.val_every,
            num_sanity_val_steps=-1 if knows_classes else None,
            accumulate_grad_batches=plan.accumulate,
            gradient_clip_val=options.clip_grad or None,
            callbacks=callbacks,
            plugins=[RunCheckpointIO(run)],
            logger=loggers,
            log_every_n_steps=10,
            enable_progress_bar=bar,
            enable_model_summary=False,
            use_distributed_sampler=False,  # the data modules share out their own images
            sync_batchnorm=synchronized and not sharded,
            default_root_dir=run.path,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:  # Lightning's, about devices
        raise TrainingError(str(error)) from error
    return trainer, stop, checkpoints


def accelerator_of(options: TrainOptions) -> tuple[str, int | list[int]]:
    """Return Lightning's words for the devices of a run: their kind, and how many or which.

    Raises:
        OptionError: There is no such device, or one is named, and several are asked for.
    """
    if reason := why_unusable(resolved(options.device)):
        raise OptionError(f"--device {options.device} cannot be used: {reason}")
    kind, _, number = resolved(options.device).partition(":")
    kind = "gpu" if kind == "cuda" else kind
    if not number:
        return kind, options.devices or 1
    if (options.devices or 1) > 1:
        raise OptionError(f"--device {options.device} names one device; leave out its number, or --devices")
    return kind, [int(number)]


def tracked_name(name: str) -> str:
    """Return the name of a metric for trackers, which draw what is before a slash in one group.

    Examples:
        >>> [tracked_name(name) for name in ("val_top1", "train_loss", "train_loss_step", "lr", "epoch")]
        ['val/top1', 'train/loss_epoch', 'train/loss', 'train/lr', 'epoch']
    """
    known = {"train_loss": "train/loss_epoch", "train_loss_step": "train/loss"}
    known |= {name: f"train/{name}" for name in ("lr", "seconds")}
    return known.get(name) or re.sub("^(train|val)_", r"\1/", name)


class _TensorBoard(TensorBoardLogger):
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        super().log_metrics({tracked_name(name): value for name, value in metrics.items()}, step)


class _Wandb(WandbLogger):
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        super().log_metrics({tracked_name(name): value for name, value in metrics.items()}, step)


class Trackers:
    """The loggers of a run, and the names under which its trackers know it.

    Args:
        names: Names of trackers, any of ``tensorboard`` and ``wandb``, or class paths of Lightning's loggers, see
            `class_paths.build`; ``csv`` stands for nothing beside ``metrics.csv``. ``None`` is TensorBoard where
            it is installed.
        run: Folder of the run; a run that was tracked before continues under the same id.
        settings: Options of the run, which the trackers show.

    Attributes:
        loggers: Loggers for Lightning's trainer.

    Raises:
        OptionError: A package is missing.
    """

    def __init__(self, names: Sequence[Any] | None, run: RunFolder, settings: Mapping[str, Any]) -> None:
        if names is None:
            names = ["tensorboard"] if _installed("tensorboard") else []
        others = [name for name in names if not isinstance(name, str) or "." in name]
        names = [name for name in dict.fromkeys(n for n in names if n not in others) if name != "csv"]
        for name in names:
            if not _installed(name):
                raise OptionError(f"--logger {name} needs another package: {install_command(name)}")
        self._file = run.trackers_file
        self._ids, damage = run.read_trackers()
        if damage and not rank():
            log.warning(f"{self._file}: {damage}; the trackers begin new runs{keep_aside(self._file)}")
        self.loggers: list[Logger] = []
        self._wandb: WandbLogger | None = None
        if "tensorboard" in names:
            self.loggers.append(_TensorBoard(run.path, name="tensorboard", version="", default_hp_metric=False))
        if "wandb" in names:
            label = run.path.resolve().name
            self._ids.setdefault("wandb", f"{file_name(label).replace(',', '-')}-{secrets.token_hex(4)}")
            self._wandb = _Wandb(
                name=label,
                save_dir=run.path,
                id=self._ids["wandb"],
                project=os.environ.get("WANDB_PROJECT") or "ctxvision",
                config=dict(settings),
            )
            self.loggers.append(self._wandb)
        self.loggers += class_paths.build(Logger, others, "--logger", run.path)  # type: ignore[type-abstract]

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Begin the runs of the trackers, and end them after this block; for the process of rank 0.

        Raises:
            TrainingError: Weights & Biases cannot be reached.
        """
        if self._ids:
            write_whole(self._file, json.dumps(self._ids, indent=1) + "\n")
        code = 1
        try:
            if self._wandb:
                import wandb

                try:
                    _ = self._wandb.experiment
                except wandb.errors.Error as error:
                    offline = "WANDB_MODE=offline keeps the run in its folder"
                    raise TrainingError(f"--logger wandb: {str(error).rstrip('.')}; {offline}") from error
            yield
            code = 0
        finally:
            if self._wandb and self._wandb._experiment is not None:
                self._wandb._experiment.finish(exit_code=code)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def make_sharded(options: TrainOptions) -> ModelParallelStrategy:
    """Build Lightning's strategy for a sharded network; its checkpoints are whole, and written by rank 0.

    Args:
        options: Options of the run, complete.

    Raises:
        OptionError: An option does not go together with a sharded network.
    """
    devices = (options.devices or 1) * (options.nodes or 1)
    if devices == 1:
        raise OptionError("--strategy fsdp shares a network out among several devices; add --devices")
    for name in ("ema", "skip_nan", "compile"):
        if getattr(options, name):
            raise OptionError(f"{option(name)} does not go together with --strategy fsdp; leave one of them out")
    if options.precision == "16-mixed":
        raise OptionError("--precision 16-mixed does not go together with --strategy fsdp; take bf16-mixed")
    if options.optimizer not in _OPTIMIZERS:
        raise OptionError(f"--strategy fsdp needs one of {', '.join(_OPTIMIZERS)}, not {options.optimizer}")
    return ModelParallelStrategy(
        data_parallel_size=devices, tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def shard_when_ready(task: Task, *, sync_batchnorm: bool) -> None:
    """Let Lightning shard the network once the process group exists.

    Args:
        task: Task whose network is whole and has the same weights in all processes.
        sync_batchnorm: Whether batch norms take their statistics over all GPUs.
    """

    def configure_model() -> None:
        if sync_batchnorm:
            task.model = nn.SyncBatchNorm.convert_sync_batchnorm(task.model)
        # Lightning has no double precision here: the network's own is kept, and images are cast to it
        double = MixedPrecisionPolicy(param_dtype=torch.float64) if task.dtype == torch.float64 else None
        assert task.device_mesh is not None
        shard(task.model, task.device_mesh["data_parallel"], double or MixedPrecisionPolicy())

    task.configure_model = configure_model  # type: ignore[method-assign]


def shard(network: nn.Module, mesh: DeviceMesh, policy: MixedPrecisionPolicy) -> None:
    """Shard a network block by block, so that an all-gather makes only one block whole at a time.

    Args:
        network: Network of timm or ours.
        mesh: Device mesh of all processes.
        policy: Precision in which parameters are used.
    """
    # parameters in channels-last order cannot be cut; the images stay in it
    network.to(memory_format=torch.contiguous_format)
    for block in blocks(network).values():
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)
    if hasattr(network, "forward_stages"):
        register_fsdp_forward_method(network, "forward_stages")


def blocks(network: nn.Module) -> dict[str, nn.Module]:
    """Find the residual blocks of a network by the names that timm gives them."""
    return {
        name: module
        for name, module in network.named_modules()
        if _BLOCK.search(name) and not isinstance(module, nn.Sequential)
    }
