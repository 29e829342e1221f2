"""What the Kubeflow user interface shows of an evaluation: scalars, two confusion matrices, the report."""

import shutil
from pathlib import Path

from kfp import dsl

from training.robustness.results import REPORT, read_result
from training.robustness.summary import classification_summary, scalar_summary


def show_evaluation(
    folder: Path,
    metrics: dsl.Metrics,
    confusion: dsl.ClassificationMetrics,
    robust_confusion: dsl.ClassificationMetrics,
    report: dsl.HTML,
) -> None:
    """Fill the user interface's artefacts from a published evaluation."""
    result = read_result(folder)
    for name, value in scalar_summary(result).items():
        metrics.log_metric(name, value)
    confusion.log_confusion_matrix(*classification_summary(result))
    robust_confusion.log_confusion_matrix(*classification_summary(result, worst=True))
    shutil.copyfile(folder / REPORT, report.path)
