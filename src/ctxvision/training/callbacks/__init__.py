"""Lightning callbacks that look after a run; each works in anybody's `Trainer` with any `LightningModule`."""

from .bar import RunProgressBar
from .checkpoints import GracefulStop, RunCheckpoints
from .metrics import Curves, EpochLines, MetricsFile, TrackedRate
from .progress import StepLines
from .steps import EpochSoFar, FiniteSteps, LastEpochValidated, StepSeed

__all__ = [
    "Curves",
    "EpochLines",
    "EpochSoFar",
    "FiniteSteps",
    "GracefulStop",
    "LastEpochValidated",
    "MetricsFile",
    "RunCheckpoints",
    "RunProgressBar",
    "StepLines",
    "StepSeed",
    "TrackedRate",
]
