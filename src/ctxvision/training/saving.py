"""How the files of a run are written and kept: whole, checked, and never lost to a run that goes back."""

import contextlib
import itertools
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO

from ctxvision.files import reason
from ctxvision.runs import RunFolder
from ctxvision.tasks.checkpoint_file import copy_checkpoint, keep_as, save_checkpoint

from .error import TrainingError

log = logging.getLogger(__name__)


class RunCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin that writes the checkpoints of a run with a checksum, and reads them back.

    What was ``last.ckpt`` becomes ``previous.ckpt``.

    Args:
        run: Folder of the run; it is not made anew if somebody has removed it.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint in one step.

        Args:
            checkpoint: Values of the checkpoint, as ``torch.save`` takes them.
            path: Path of the checkpoint.
            storage_options: Options of Lightning's interface, which are not used.

        Raises:
            TrainingError: The file cannot be written; the older checkpoints are as they were.
        """
        path = Path(path)
        try:
            if self.run.path.is_dir():
                path.parent.mkdir(exist_ok=True)
            save_checkpoint(checkpoint, path, self.run.previous if path.name == self.run.last.name else None)
        except OSError as error:
            raise cannot_be_written(self.run, path, error) from error


def cannot_be_written(run: RunFolder, path: Path, error: OSError) -> TrainingError:
    """Return the error that says why a checkpoint of a run could not be written, and which one is still good."""
    if not run.path.is_dir():
        return TrainingError(f"{path}: cannot be written (the run folder is gone)")
    kept = next((p for p in (run.last, run.previous, run.best) if p.is_file()), None)
    advice = f"; {kept} is as it was, continue with: ctxvision train --resume {run.path}" if kept else ""
    return TrainingError(f"{path}: cannot be written ({reason(error)}){advice}")


def set_aside(run: RunFolder, checkpoint: Path) -> None:
    """Keep the newest checkpoint and the metrics under numbered names, where a run goes back to an older one.

    The process can be killed between any two steps: until the last one the run continues as if it had not begun.

    Args:
        run: Folder of the run.
        checkpoint: Checkpoint that the run continues from; nothing happens if it is the newest.

    Raises:
        TrainingError: A file cannot be written.
    """
    last = run.last
    if checkpoint.name == last.name:
        return
    kept = [path for path in (last, run.metrics_file) if path.is_file()]
    number = next(n for n in itertools.count(1) if not any(_numbered(path, n).exists() for path in kept))
    try:
        for path in kept:
            if path is last:
                keep_as(path, _numbered(path, number))
            else:
                with contextlib.suppress(OSError):  # a damaged one must not keep a run from going back
                    shutil.copyfile(path, _numbered(path, number))
        copy_checkpoint(checkpoint, last)
        # the previous checkpoint is of the other branch, where a damaged one of this branch must not lead
        if checkpoint.name != run.previous.name:
            run.previous.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_be_written(run, last, error) from error
    if kept:
        names = " and ".join(str(_numbered(path, number)) for path in kept)
        log.warning(f"going back to {checkpoint}; what came after it stays in {names}")


@contextmanager
def disk_errors_explained(folder: Path) -> Iterator[None]:
    """Explain what goes wrong with the files of a run folder inside this block.

    TensorBoard writes in a thread, whose error comes up again in the main thread and is not shown twice.

    Args:
        folder: The run folder.

    Raises:
        TrainingError: The folder is gone, or a file in it cannot be written.
    """
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, OSError):
            before(args)

    threading.excepthook = hook
    try:
        yield
    except (OSError, TrainingError) as error:
        if not folder.is_dir():
            raise TrainingError(f"{folder}: the run folder is gone, nothing can be saved there") from error
        if isinstance(error, OSError) and (name := _inside(error, folder)):
            raise TrainingError(f"{name}: cannot be written ({reason(error)})") from error
        raise
    finally:
        threading.excepthook = before


def _inside(error: OSError, folder: Path) -> str | None:
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    return name if name and Path(name).resolve().is_relative_to(folder.resolve()) else None


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")
