"""Lightning's metrics in trackio, which keeps them on this machine."""

import contextlib
import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only


class TrackioLogger(Logger):
    """Logs to a run of trackio, which is continued if there is one of this name.

    Args:
        project: that the run belongs to.
        name: of the run, unique in the project.
        config: settings to show beside it.
    """

    def __init__(self, project: str, name: str, config: Mapping[str, Any]) -> None:
        super().__init__()
        self._project = project
        self._name = name
        self._config = dict(config)
        self._run: Any = None

    @property
    def name(self) -> str:
        """Project."""
        return self._project

    @property
    def version(self) -> str:
        """Name of the run."""
        return self._name

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run as trackio knows it; it begins when it is first asked for."""
        if self._run is None:
            import trackio

            with contextlib.redirect_stdout(sys.stderr):
                self._run = trackio.init(
                    self._project, name=self._name, config=self._config, resume="allow", embed=False
                )
        return self._run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers of one step."""
        self.experiment.log({name: float(value) for name, value in metrics.items()}, step=step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Nothing: the settings of the run are all in its config."""

    @rank_zero_only
    def close(self) -> None:
        """Write what is still waiting, and end the run."""
        if self._run is not None:
            import trackio

            self._run = None
            with contextlib.redirect_stdout(sys.stderr):
                trackio.finish()
