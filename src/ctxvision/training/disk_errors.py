"""One line about a run folder that can no longer be written."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctxvision.files import reason
from ctxvision.training.error import TrainingError


@contextmanager
def disk_errors_explained(folder: Path) -> Iterator[None]:
    """Explain what goes wrong in a run folder inside this block.

    TensorBoard writes in a thread, whose error comes up again in the main thread and is not shown twice.

    Raises:
        TrainingError: the folder is gone, or a file in it cannot be written.
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
