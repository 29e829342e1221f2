"""What a pipeline run came to: read from its artefacts, printed as a table."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from components.registration.registry import DECISION, Registered
from components.registration.run import REGISTERED
from training.artefact import open_artefact
from training.errors import TemperError
from training.gates import Decision
from training.robustness.results import REPORT, EvaluationResult, Share, read_result


@dataclass(frozen=True)
class Verdict:
    """The evaluation, the decision and the registered version of one run."""

    folder: Path
    result: EvaluationResult
    decision: Decision
    registered: Registered


def read_verdict(folder: Path) -> Verdict:
    """Read a run's artefacts, each checked against its manifest.

    Raises:
        TemperError: no run there, an unfinished one, or an altered artefact.
    """
    evaluation, registration = folder / "robustness_evaluation", folder / "registration"
    if not registration.is_dir():
        msg = f"{folder}: no finished run there; see the folders under runs/, or run temper run"
        raise TemperError(msg)
    open_artefact(evaluation, "evaluation")
    open_artefact(registration, "decision")
    try:
        decision = Decision.model_validate_json((registration / DECISION).read_bytes())
        registered = Registered.model_validate_json((registration / REGISTERED).read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        msg = f"{registration}: {DECISION} or {REGISTERED} is missing or not of this version of Temper; "
        msg += "run step registration again"
        raise TemperError(msg) from error
    return Verdict(folder, read_result(evaluation), decision, registered)


def print_verdict(verdict: Verdict, screen: Console) -> None:
    """Print accuracy, gates, and where the student went."""
    screen.print(accuracy_table(verdict.result))
    screen.print(_gate_table(verdict.decision))
    registered = verdict.registered
    alias = registered.alias
    screen.print(f"verdict   {verdict.decision.verdict}: ", _in_words(verdict), markup=False, sep="")
    screen.print(
        f"version   {registered.model_name} version {registered.version}, alias {alias}", markup=False
    )
    screen.print(f"report    {verdict.folder / 'robustness_evaluation' / REPORT}", markup=False)
    uri = registered.tracking_uri
    command = "" if uri.startswith("http") else "mlflow ui --backend-store-uri "
    screen.print(f"tracking  {command}{uri}", markup=False)


def _in_words(verdict: Verdict) -> str:
    if not verdict.decision.passed:
        refused = [f"{gate.gate}: {gate.reason}" for gate in verdict.decision.outcomes if not gate.passed]
        return "; ".join(refused)
    if verdict.registered.alias == "challenger":
        return "every gate passed; policy manual leaves the champion alias to you"
    return "every gate passed"


def percent(rate: Share) -> str:
    """Write a rate with its interval, such as ``98.6 % (96.9-99.3)``."""
    return f"{100 * rate.value:.1f} % ({100 * rate.low:.1f}-{100 * rate.high:.1f})"


def accuracy_table(result: EvaluationResult) -> Table:
    """Return natural accuracy, and what stands after each attack."""
    threat = result.threat_model
    title = f"Accuracy on {result.examples} test images, {threat.norm} epsilon {threat.epsilon:g}"
    table = Table(
        "measure", "accuracy (95 % interval)", "broken of attacked", title=title, title_justify="left"
    )
    table.add_row("natural", percent(result.natural), "")
    for attack in result.attacks:
        counts = f"{attack.broken} of {attack.attacked}"
        table.add_row(f"robust after {attack.attack.name}", percent(attack.robust), counts)
    table.add_row("robust (worst case)", percent(result.robust), "")
    return table


def _gate_table(decision: Decision) -> Table:
    table = Table("gate", "required", "found", "", title="Gates", title_justify="left")
    for gate in decision.outcomes:
        found = "missing" if gate.found is None else f"{gate.found:g}"
        table.add_row(gate.gate, f"{gate.required:g}", found, "passed" if gate.passed else "REFUSED")
    return table


def result_line(verdict: Verdict, seconds: float) -> str:
    """Return the line that a program reads."""
    result, registered = verdict.result, verdict.registered
    return (
        f"RESULT seconds={seconds:.1f} natural={result.natural.value:.4f} robust={result.robust.value:.4f} "
        f"version={registered.version} alias={registered.alias}"
    )
