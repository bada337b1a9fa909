"""Look into a trained network: what it predicts, where it errs, which classes it still considers at each stage."""

from .error import ReportError
from .funnel import Funnel, FunnelStep, StageView, class_funnel, funnel_steps, is_contextual
from .predictions import Predictions, StageRecall, collect_predictions, wilson_interval
from .run import Epoch, Run, read_run

__all__ = [
    "Epoch",
    "Funnel",
    "FunnelStep",
    "Predictions",
    "ReportError",
    "Run",
    "StageRecall",
    "StageView",
    "class_funnel",
    "collect_predictions",
    "funnel_steps",
    "is_contextual",
    "read_run",
    "wilson_interval",
]
