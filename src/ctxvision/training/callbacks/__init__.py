"""Lightning callbacks that look after a run; each works in anybody's `Trainer` with any `LightningModule`."""

from .curves import Curves
from .epoch_lines import EpochLines
from .epoch_so_far import EpochSoFar
from .finite_steps import FiniteSteps
from .graceful_stop import GracefulStop
from .last_epoch_validated import LastEpochValidated
from .metrics_file import MetricsFile
from .run_checkpoints import RunCheckpoints
from .step_seed import StepSeed
from .tracked_rate import TrackedRate

__all__ = [
    "Curves",
    "EpochLines",
    "EpochSoFar",
    "FiniteSteps",
    "GracefulStop",
    "LastEpochValidated",
    "MetricsFile",
    "RunCheckpoints",
    "StepSeed",
    "TrackedRate",
]
