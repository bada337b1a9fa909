"""One training run from its settings to its summary."""

import dataclasses
import functools
import logging
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only

from ctxvision.files import write_whole
from ctxvision.runs import RunFolder
from ctxvision.training.error import TrainingError
from ctxvision.wording import plural

from . import batch_plan, branch, run_folder
from .callbacks.graceful_stop import GracefulStop
from .callbacks.run_checkpoints import RunCheckpoints
from .disk_errors import disk_errors_explained
from .environment import Environment
from .options.base import TrainConfig
from .pictures import draw_answers
from .processes import group as process_group
from .processes import launch as processes
from .processes.sharding import shard_when_ready
from .resume import in_order_of, require_same_settings, require_same_task
from .setup import (
    build_task,
    describe_batch,
    epochs_of,
    make_trainer,
    note_single_values,
    require_fit,
    synchronizes,
    warm_start_task,
    with_image_size,
)
from .trackers import Trackers

log = logging.getLogger(__name__)


def train(config: TrainConfig) -> int:
    """Train, and return the exit code: 0, or 128 + the signal that stopped the run.

    Raises:
        TrainingError: the run folder is in use, nothing can be resumed, or the batch cannot be shared out.
        DataError: the data cannot be used.
        TaskError: the model is unknown, or the training failed.
        CheckpointError: the weights to start from cannot be used.
    """
    with ExitStack() as until_end:
        return _train(config, until_end)


def _train(config: TrainConfig, until_end: ExitStack) -> int:
    plan = batch_plan.solve(
        config.batch_size or 0,
        config.devices,
        config.nodes,
        micro_batch=config.micro_batch,
        accumulate=config.accumulate,
    )
    data = config.open_data(plan.images)
    folder, resumed = run_folder.choose(config, rank_zero_only.rank or 0)
    if resumed:
        data = in_order_of(resumed, data, functools.partial(config.open_data, plan.images))
    config = with_image_size(config, data)
    torch.manual_seed(config.seed)
    task = build_task(config, data)
    norms = require_fit(task)
    if resumed:
        require_same_settings(config, folder)
        require_same_task(task, resumed)
    elif config.init_from:
        warm_start_task(task, config.init_from, partial=config.init_partial)
    if config.compile:
        task.compile_network()
    if config.precision == "64-true":
        task.double()  # Lightning would do so after it has copied the weights for the average
    for line in data.notes:
        log.warning(line)
    if not rank_zero_only.rank:
        note_single_values(config, plan, norms)
    checkpoints = RunCheckpoints(RunFolder(folder), config.save_minutes)
    stop = GracefulStop(checkpoints.last)
    epochs = epochs_of(config, data, plan)
    settings = dataclasses.asdict(dataclasses.replace(config, out=str(folder), resume=None))
    trackers = Trackers(config.logger, folder, settings)
    trainer = make_trainer(config, plan, epochs, folder, stop, checkpoints, trackers.loggers)
    if config.strategy == "fsdp":
        shard_when_ready(task, sync_batchnorm=synchronizes(config))
    if trainer.is_global_zero:
        environment = Environment()
        run_folder.make(folder, until_end)
        environment.write(folder, trainer, resumed, settings)
        branch.set_aside(config, folder, resumed)
        write_whole(RunFolder(folder).settings_file, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        verb = "continuing" if resumed else "training"
        log.info(f"{verb} {config.model} on {config.data} in {folder}")
        log.info(describe_batch(config, plan))
        if config.steps:
            log.info(f"{plural(config.steps, 'step')}, rounded up to {plural(epochs, 'epoch')}")
    try:
        tracked = trackers.opened() if trainer.is_global_zero else nullcontext()
        with stop.installed(), disk_errors_explained(folder), tracked:
            if (launch := processes.launched()) and launch.by == "torchrun":
                process_group.join(trainer.strategy.root_device)
            trainer.fit(task, datamodule=data, ckpt_path=resumed, weights_only=True)
    except (SystemExit, KeyboardInterrupt):
        if not stop.signal_number:
            raise
        _leave_group()
        _report_stop(trainer, stop, folder, data)
        return 128 + stop.signal_number
    except torch._dynamo.exc.TorchDynamoException as error:
        raise TrainingError(f"--compile failed, leave it out ({str(error).strip().splitlines()[0]})") from error
    except RuntimeError as error:
        if not process_group.is_lost_process(error):
            raise
        raise TrainingError("another process of this run has ended; what it said tells why") from error
    bad = _everyone_s(data.bad_images)
    _leave_group()
    if trainer.is_global_zero:
        _report_end(trainer, task.monitor_name, checkpoints, bad)
        if config.pictures and task.kind == "classification":
            draw_answers(trainer, data, checkpoints.best, bad)
    return 0


def _everyone_s(bad: dict[str, str]) -> dict[str, str]:
    """Merge the reports of all processes."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return bad
    reports: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(reports, bad)
    return {path: reason for report in reports for path, reason in report.items()}


def _leave_group() -> None:
    """End the threads of a group of processes, which may else outlive the interpreter and abort it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _report_stop(trainer: Trainer, stop: GracefulStop, folder: Path, data: Any) -> None:
    if not trainer.is_global_zero:
        return
    if data.bad_images:
        log.warning(f"skipped {plural(len(data.bad_images), 'bad image')}")
    advice = (
        f"continue with: ctxvision train --resume {folder}"
        if stop.checkpoint.is_file()
        else "there was nothing to save yet"
    )
    log.warning(f"stopped in epoch {trainer.current_epoch + 1}; {advice}")


def _report_end(trainer: Trainer, what: str, checkpoints: RunCheckpoints, bad: dict[str, str]) -> None:
    if bad:
        log.warning(f"skipped {plural(len(bad), 'bad image')}, named above")
    log.info(f"best {what} {checkpoints.best_value:.2%} in epoch {checkpoints.best_epoch} of {trainer.max_epochs}")
    log.info(f"checkpoint {checkpoints.best}")
