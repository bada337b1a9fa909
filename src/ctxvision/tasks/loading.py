"""A trained task from its checkpoint, which need not be trusted."""

import contextlib
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctxvision.checkpoints import CheckpointError
from ctxvision.checkpoints.archive import ArchiveError, has_whole_end, load_pickled
from ctxvision.checkpoints.finite import require_finite
from ctxvision.files import reason
from ctxvision.runs import checkpoint_of

from .checkpoint_file import checksum_fits
from .classification.pretrained import is_pretrained_name, pretrained_task
from .error import TaskError
from .limits import Budget, require_moderate
from .registry import TASKS, task_class
from .task import Task


def load_task(path: str | os.PathLike[str], *, trust: bool = False) -> Task:
    """Rebuild a task, in evaluation mode and on the CPU, from a checkpoint of ``ctxvision train``.

    Nothing else is needed: the model's name and arguments, the class names, input size and normalisation are
    inside. Code in the file is never run.

    Args:
        path: A ``.ckpt`` file; a run folder, whose best checkpoint is taken; or the name of a network with
            pretrained weights, such as ``rednet50``, where there is no file or folder of that name.
        trust: Whether the settings in the file may ask for more memory and time than a network usually does.

    Raises:
        CheckpointError: The file is missing, truncated, changed since it was written, not a checkpoint of this
            library, or has code in it; or it is of a model that this version does not know, has weights that are
            no numbers, or settings beyond the limits.
    """
    path = Path(checkpoint_of(path))
    if is_pretrained_name(str(path)):
        return pretrained_task(str(path))
    if path.suffix.lower() in (".onnx", ".pt2"):
        raise CheckpointError(path, "is an exported network; name the checkpoint that it was exported from")
    checkpoint = _read(path)
    hparams, weights = checkpoint.get("hyper_parameters"), checkpoint.get("state_dict")
    if "ctxvision" not in checkpoint or not isinstance(hparams, Mapping) or not isinstance(weights, Mapping):
        raise CheckpointError(path, "not a checkpoint of `ctxvision train`")
    try:
        kind = _task_class(checkpoint["ctxvision"])
        require_moderate(kind.kind, hparams.get("data_spec"), hparams, trust=trust)
        with contextlib.nullcontext() if trust else Budget(path.stat().st_size):
            task = kind(**hparams)
        task.load_state_dict(weights)
    except TaskError as error:
        raise CheckpointError(path, str(error)) from error
    except Exception as error:  # whatever a file with wrong contents makes torch or timm raise
        raise CheckpointError(path, f"its contents do not fit together ({_first_line(error)})") from error
    require_finite(task.state_dict(), path)
    return task.eval()


def read_progress(path: str | os.PathLike[str]) -> tuple[int | None, int | None]:
    """Return the epoch, from 1, and the number of optimiser steps at which a checkpoint was saved, if known.

    Raises:
        CheckpointError: The file cannot be read.
    """
    checkpoint = _read(Path(checkpoint_of(path)))
    epoch, step = checkpoint.get("epoch"), checkpoint.get("global_step")
    return epoch + 1 if isinstance(epoch, int) else None, step if isinstance(step, int) else None


def _task_class(mark: Any) -> type[Task]:
    """Choose the class of the task that the checkpoint names.

    Raises:
        TaskError: This version has no such task.
    """
    # the first version knew no other task
    kind = mark.get("task", "classification") if isinstance(mark, Mapping) else None
    if not isinstance(kind, str) or kind not in TASKS:
        raise TaskError(f"its task is {kind!r}; this version knows {', '.join(TASKS)}")
    return task_class(kind)


def require_readable(path: Path) -> None:
    """Check that a checkpoint is whole: by its checksum, or by reading it where it has none.

    Raises:
        CheckpointError: The file is missing, truncated or damaged.
    """
    if not _is_verified(path):
        _read(path)


def _is_verified(path: Path) -> bool:
    """Tell whether a file has a checksum that fits."""
    if not path.exists():
        raise CheckpointError(path, "no such file")
    if path.is_dir():
        raise CheckpointError(
            path, "is a folder; name a .ckpt file, or a run folder, in which there is checkpoints/best.ckpt"
        )
    try:
        fits = checksum_fits(path)
        if fits is None:
            _require_whole(path)
    except PermissionError as error:
        raise CheckpointError(path, "cannot be read (permission denied)") from error
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({reason(error)})") from error
    if fits is False:
        raise CheckpointError(path, "damaged: it is not what was written (its checksum does not fit)")
    return bool(fits)


def _require_whole(path: Path) -> None:
    """Notice a file that lost its checksum with its last bytes: what is left reads as before.

    Raises:
        CheckpointError: The end of the file is missing, or something follows it.
    """
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04" and not has_whole_end(file):
            raise CheckpointError(
                path, "damaged: its last bytes are missing, or others follow them; copy or download it again"
            )


def _read(path: Path) -> dict[str, Any]:
    _is_verified(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch would warn about ends in an error below
            with path.open("rb") as file:
                checkpoint = load_pickled(file)
    except ArchiveError as error:
        raise CheckpointError(path, f"truncated, damaged or not a checkpoint ({error})") from error
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            is_pickle = file.read(1) in (b"P", b"\x80")  # inside a zip file, or bare
        reason = "refused: it holds more than tensors and plain values, maybe code; none was run"
        raise CheckpointError(path, reason if is_pickle else "not a checkpoint") from error
    except Exception as error:  # damaged bytes may raise anything
        raise CheckpointError(path, "truncated, damaged or not a checkpoint") from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(path, "not a checkpoint of `ctxvision train`")
    return checkpoint


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
