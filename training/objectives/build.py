"""From the configuration to an objective."""

from training import config
from training.objectives.base import Objective
from training.objectives.ckt import CktObjective
from training.objectives.guided import GuidedObjective
from training.objectives.pgd_at import PgdAtObjective
from training.objectives.trades import TradesObjective


def build_objective(section: config.Objective) -> Objective:
    """Build the objective that a phase names."""
    match section:
        case config.PgdAt():
            return PgdAtObjective()
        case config.Trades():
            return TradesObjective(section.beta)
        case config.Guided():
            return GuidedObjective(section.weight, section.beta, section.attack)
        case config.Ckt():
            return CktObjective(**section.model_dump(exclude={"name"}))
