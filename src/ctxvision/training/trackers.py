"""Where the numbers of a run go beside ``metrics.csv``: TensorBoard and Weights & Biases."""

import importlib.util
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from ctxvision.files import keep_aside, write_whole
from ctxvision.foreign import file_name
from ctxvision.runs import RunFolder

from .error import OptionError, TrainingError
from .processes.group import rank

log = logging.getLogger(__name__)


class Trackers:
    """The loggers of a run, and the names under which its trackers know it.

    Args:
        names: Names of trackers, any of ``tensorboard`` and ``wandb``; ``csv`` stands for nothing beside
            ``metrics.csv``. ``None`` is TensorBoard where it is installed.
        run: Folder of the run; a run that was tracked before continues under the same id.
        settings: Options of the run, which the trackers show.

    Attributes:
        loggers: Loggers for Lightning's trainer.

    Raises:
        OptionError: A package is missing.
    """

    def __init__(self, names: Sequence[str] | None, run: RunFolder, settings: Mapping[str, Any]) -> None:
        if names is None:
            names = ["tensorboard"] if _installed("tensorboard") else []
        names = [name for name in dict.fromkeys(names) if name != "csv"]
        for name in names:
            if not _installed(name):
                raise OptionError(f"--logger {name} needs another package: pip install {name}")
        self._file = run.trackers_file
        self._ids, damage = run.read_trackers()
        if damage and not rank():
            log.warning(f"{self._file}: {damage}; the trackers begin new runs{keep_aside(self._file)}")
        self.loggers: list[Logger] = []
        self._wandb: WandbLogger | None = None
        if "tensorboard" in names:
            self.loggers.append(TensorBoardLogger(run.path, name="tensorboard", version=""))
        if "wandb" in names:
            label = run.path.resolve().name
            self._ids.setdefault("wandb", f"{file_name(label).replace(',', '-')}-{secrets.token_hex(4)}")
            self._wandb = WandbLogger(
                name=label,
                save_dir=run.path,
                id=self._ids["wandb"],
                project=os.environ.get("WANDB_PROJECT") or "ctxvision",
                config=dict(settings),
            )
            self.loggers.append(self._wandb)

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
