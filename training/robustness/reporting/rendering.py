"""Templates: where they are and what they may call."""

import functools
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training.robustness.reporting import wording
from training.robustness.reporting.confusion import heat
from training.robustness.reporting.markdown import code, escape_markdown
from training.robustness.reporting.trust import CHECKS

TEMPLATES = Path(__file__).parents[1]


@functools.cache
def html_environment() -> Environment:
    """Return the environment of the HTML report: everything is escaped, nothing may be undefined."""
    environment = _environment(autoescape=True)
    environment.globals["checks"] = CHECKS
    return environment


@functools.cache
def text_environment() -> Environment:
    """Return the environment of Markdown; its templates escape users' text with ``md`` and ``code``."""
    environment = _environment(autoescape=False)
    environment.filters |= {"md": escape_markdown, "code": code}
    return environment


def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=autoescape,  # noqa: S701 - off for Markdown alone, which has escapes of its own
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": wording.percent,
        "percentage": wording.percentage,
        "interval": wording.interval,
        "points": wording.points,
        "counted": wording.counted,
        "plural": wording.plural,
        "epsilon": wording.write_epsilon,
        "attack_name": wording.name_attack,
        "attack_settings": wording.describe_attack,
        "attack_explanation": wording.explain_attack,
        "heat": heat,
        "share": lambda value: f"{100 * value:.2f}%",
        "whole": lambda value: f"{100 * value:.0f}",
        "number": lambda value: f"{value:.2f}",
        "short": lambda value: f"{value:.3g}",
        "count": lambda value: f"{value:,}",
    }
    return environment
