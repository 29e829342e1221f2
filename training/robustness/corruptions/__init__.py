"""Common corruptions of images (Hendrycks and Dietterich 2019), keyed by example."""

from training.robustness.corruptions.catalogue import (
    COMMON,
    CORRUPTIONS,
    PARAMETER_SOURCES,
    SEVERITIES,
    Corruption,
    ParameterSet,
    find_corruption,
    parameters_for,
)
from training.robustness.corruptions.corrupt import corrupt

__all__ = [
    "COMMON",
    "CORRUPTIONS",
    "PARAMETER_SOURCES",
    "SEVERITIES",
    "Corruption",
    "ParameterSet",
    "corrupt",
    "find_corruption",
    "parameters_for",
]
