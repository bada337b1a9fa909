"""Checkpoint files: written whole and with a checksum of their own, and a trained task from one, without trust.

``torch.save`` writes a zip file. The SHA-256 of its bytes goes into the comment that a zip file may end with: it
travels with every copy, needs no second file that could be lost or be of another generation, and torch and every
unzip program read the file as before.
"""

import contextlib
import hashlib
import os
import pickle
import re
import shutil
import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from ctxvision.checkpoints import CheckpointError
from ctxvision.checkpoints.archive import ArchiveError, has_whole_end, load_pickled
from ctxvision.checkpoints.finite import require_finite
from ctxvision.files import near_path, reason, replacing
from ctxvision.runs import BEST, checkpoint_of
from ctxvision.tasks.classification.task import is_pretrained_name, pretrained_task

from .error import TaskError
from .limits import Budget, require_moderate
from .registry import TASKS, task_class
from .task import Task

_TAG = b"ctxvision-sha256:"
_COMMENT = len(_TAG) + 64
_CHUNK = 1 << 20


def save_checkpoint(checkpoint: Mapping[str, Any], path: Path, previous: Path | None = None) -> None:
    """Write a checkpoint with its checksum, read it back, and only then move it to its place.

    Args:
        checkpoint: The values, as ``torch.save`` takes them.
        path: The path to write to, in a folder that exists; a file there is replaced in one step.
        previous: The path that the replaced file moves to, if it is whole.

    Raises:
        OSError: The file cannot be written, or does not read back as it was written; what was there is still
            there.
    """
    with _replacing(path, previous) as file:
        writer = _HashingWriter(file)
        try:
            torch.save(dict(checkpoint), writer)  # type: ignore[arg-type]
        except Exception as error:  # torch reports a failed write as one of its own
            if writer.error:
                raise writer.error from error
            raise
        # the last two bytes are the length of the comment, so far 0
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", _COMMENT) + _TAG + writer.hash.hexdigest().encode())


def copy_checkpoint(source: Path, path: Path, previous: Path | None = None) -> None:
    """Copy a checkpoint as `save_checkpoint` writes one.

    Raises:
        OSError: The source is damaged, or the file cannot be written; what was there is still there.
    """
    expected = checksum_fits(source)
    if expected is False:
        raise OSError(f"{source.name} is damaged")
    with source.open("rb") as original, _replacing(path, previous, expected) as file:
        shutil.copyfileobj(original, file, _CHUNK)


def keep_as(source: Path, path: Path) -> None:
    """Give a checkpoint a second name, in one step; nothing is copied where the file system has links.

    Raises:
        OSError: The file can neither be linked nor copied.
    """
    try:
        with replacing(path, follow_links=False) as part:
            part.unlink()
            os.link(source, part)
    except OSError:
        copy_checkpoint(source, path)


def checksum_fits(path: Path) -> bool | None:
    """Compare a file with the checksum in it; ``None`` if it has none, as older ones and others' have none.

    Raises:
        OSError: The file cannot be read.
    """
    size = path.stat().st_size - _COMMENT
    with path.open("rb") as file:
        file.seek(max(size, 0))
        comment = file.read()
        if size < 2 or not re.fullmatch(re.escape(_TAG) + rb"[0-9a-f]{64}", comment):
            return None
        file.seek(0)
        digest, left = hashlib.sha256(), size - 2
        while left and (chunk := file.read(min(_CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
    digest.update(b"\0\0")
    return digest.hexdigest().encode() == comment[len(_TAG) :]


@contextlib.contextmanager
def _replacing(path: Path, previous: Path | None = None, expected: bool | None = True) -> Iterator[IO[bytes]]:
    """Open a file for writing that is moved to a path when it is on the disk and reads back well."""

    def require_whole(part: Path) -> None:
        if checksum_fits(part) is not expected:
            raise OSError("does not read back as it was written")
        # a damaged file must not push a good one out
        if previous and path.is_file() and checksum_fits(path):
            keep_as(path, previous)

    # a link is replaced, not the checkpoint that it points to
    with replacing(path, ready=require_whole, follow_links=False) as part, part.open("w+b") as file:
        yield file


class _HashingWriter:
    """A file for ``torch.save`` that hashes what it is given, and remembers why a write failed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.hash = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write and add to the checksum."""
        if self.error:
            raise self.error
        try:
            self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.hash.update(data)
        return len(data)

    def flush(self) -> None:
        """Empty the buffer; torch asks for it."""
        self.file.flush()


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
        mark = checkpoint["ctxvision"]
        # the first version knew no other task
        name = mark.get("task", "classification") if isinstance(mark, Mapping) else None
        if not isinstance(name, str) or name not in TASKS:
            raise TaskError(f"its task is {name!r}; this version knows {', '.join(TASKS)}")
        kind = task_class(name)
        require_moderate(kind.kind, hparams.get("data_spec"), hparams, trust=trust)
        with contextlib.nullcontext() if trust else Budget(path.stat().st_size):
            task = kind(**hparams)
        task.load_state_dict(weights)
    except TaskError as error:
        raise CheckpointError(path, str(error)) from error
    except Exception as error:  # whatever a file with wrong contents makes torch or timm raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(path, f"its contents do not fit together ({said})") from error
    require_finite(task.state_dict(), path)
    return task.eval()


def read_progress(path: str | os.PathLike[str]) -> tuple[int | None, int | None]:
    """Return the epoch and the number of optimiser steps at which a checkpoint was saved, if known.

    Epochs count from 1; 0 is before the first step.

    Raises:
        CheckpointError: The file cannot be read.
    """
    checkpoint = _read(Path(checkpoint_of(path)))
    epoch, step = checkpoint.get("epoch"), checkpoint.get("global_step")
    step = step if isinstance(step, int) else None
    return epoch + (step != 0) if isinstance(epoch, int) else None, step


def epochs_done(path: str | os.PathLike[str]) -> int | None:
    """Return the number of epochs that were trained to their end when a checkpoint was saved, if it says so.

    Raises:
        CheckpointError: The file cannot be read.
    """
    try:
        done = _read(Path(path))["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    except (KeyError, TypeError):
        return None
    return done if isinstance(done, int) else None


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
        raise CheckpointError(path, f"no such file{near_path(path)}")
    if path.is_dir():
        raise CheckpointError(
            path, f"is a folder; name a .ckpt file, or a run folder, in which there is {BEST}{_runs_in(path)}"
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


def _runs_in(folder: Path) -> str:
    """Return a hint to the first of the run folders in a folder; empty where there are none."""
    try:
        runs = sorted(str(inner) for inner in folder.iterdir() if (inner / BEST).is_file())
    except OSError:
        return ""
    return f"; did you mean {' or '.join(runs[:2])}?" if runs else ""


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
