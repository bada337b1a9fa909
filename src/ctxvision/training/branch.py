"""A run that goes back to an older checkpoint keeps what came after it."""

import contextlib
import itertools
import logging
import shutil
from pathlib import Path

from ctxvision.runs import RunFolder
from ctxvision.tasks.checkpoint_file import copy_checkpoint, keep_as

from .checkpoint_io import cannot_be_written
from .options.base import TrainConfig

log = logging.getLogger(__name__)


def set_aside(config: TrainConfig, folder: Path, checkpoint: Path | None) -> None:
    """Keep the newest checkpoint and the metrics under numbered names, if the run goes back to an older one.

    It can be killed between any two steps: until the last one the run continues as if it had not begun.

    Args:
        config: of the run; it goes back where ``resume`` names a file other than the newest.
        folder: of the run.
        checkpoint: that it continues from.

    Raises:
        TrainingError: it cannot be written there.
    """
    run = RunFolder(folder)
    last = run.last
    if not checkpoint or not config.resume or not Path(config.resume).is_file() or checkpoint.name == last.name:
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
        # it is of the other branch, where a damaged checkpoint of this one must not lead
        if checkpoint.name != run.previous.name:
            run.previous.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_be_written(last, error) from error
    if kept:
        names = " and ".join(str(_numbered(path, number)) for path in kept)
        log.warning(f"going back to {checkpoint}; what came after it stays in {names}")


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")
