"""How Lightning writes the checkpoints of a run: whole, checked, and the one before is kept."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO

from ctxvision.files import reason
from ctxvision.runs import RunFolder
from ctxvision.tasks.checkpoint_file import save_checkpoint
from ctxvision.training.error import TrainingError


class RunCheckpointIO(TorchCheckpointIO):
    """Writes by `ctxvision.tasks.checkpoint_file`; what was ``last.ckpt`` becomes ``previous.ckpt``.

    Args:
        folder: of the run; it is not made anew if somebody has removed it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a file in one step.

        Raises:
            TrainingError: it cannot be written; the older checkpoints are as they were.
        """
        path, run = Path(path), RunFolder(self.folder)
        try:
            if self.folder.is_dir():
                path.parent.mkdir(exist_ok=True)
            save_checkpoint(checkpoint, path, run.previous if path.name == run.last.name else None)
        except OSError as error:
            raise cannot_be_written(path, error) from error


def cannot_be_written(path: Path, error: OSError) -> TrainingError:
    """Say why a checkpoint could not be written, and which one is still good."""
    run = RunFolder(path.parent.parent)
    if not run.path.is_dir():
        return TrainingError(f"{path}: cannot be written (the run folder is gone)")
    kept = next((p for p in (run.last, run.previous, run.best) if p.is_file()), None)
    advice = f"; {kept} is as it was, continue with: ctxvision train --resume {run.path}" if kept else ""
    return TrainingError(f"{path}: cannot be written ({reason(error)}){advice}")
