"""The quality of a trained network on a data set: its numbers, by class and by image.

`evaluate` is one loop for every task; `Scores` holds its findings.
"""

from .answers import class_table, confused_pairs, confusion_matrix, mean_class_accuracy, wilson_interval
from .comparison import ComparedRun, Comparison, compare_runs
from .imagenet import read_real, real_accuracy
from .loop import PRECISIONS, Evaluator, evaluate, score
from .scores import EvaluationError, Scores
from .source import DataRequest, Source

__all__ = [
    "PRECISIONS",
    "ComparedRun",
    "Comparison",
    "DataRequest",
    "EvaluationError",
    "Evaluator",
    "Scores",
    "Source",
    "class_table",
    "compare_runs",
    "confused_pairs",
    "confusion_matrix",
    "evaluate",
    "mean_class_accuracy",
    "read_real",
    "real_accuracy",
    "score",
    "wilson_interval",
]
