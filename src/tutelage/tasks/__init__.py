"""What a batch's targets mean: the loss, the loss against a teacher, the metrics, and which metric selects."""

from tutelage.tasks.base import Batch, Metrics, Task, mean_of_counted
from tutelage.tasks.classes import Binary, Classification, MultiLabel, NoTargets
from tutelage.tasks.tokens import Tokens
from tutelage.tasks.values import Forecasting, Regression

__all__ = [
    "Batch",
    "Binary",
    "Classification",
    "Forecasting",
    "Metrics",
    "MultiLabel",
    "NoTargets",
    "Regression",
    "Task",
    "Tokens",
    "mean_of_counted",
]
