"""The public AutoAttack (PyPI: pyautoattack) and ours, run on the same model and images."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipelines.peer_models import as_floats
from training.attacks.gradients import frozen
from training.config import Evaluation, EvaluationAttack, ThreatModel
from training.errors import TemperError
from training.robustness.search import Search, make_victim
from training.robustness.subject import Plan, Subject, natural_logits
from training.validation import LabelledImages

BATCH = 250
"""The reference's own batch size."""

_THEIR_NAMES = {
    "apgd_ce": "apgd-ce",
    "apgd_dlr": "apgd-dlr",
    "apgd_t": "apgd-t",
    "fab": "fab",
    "fab_t": "fab-t",
    "square": "square",
}


@dataclass(frozen=True)
class Verdicts:
    """Whether each image stands, shape (n,), and the seconds it took to tell."""

    standing: npt.NDArray[np.bool_]
    seconds: float


def reference(
    model: nn.Module, data: LabelledImages, threat: ThreatModel, seed: int, only: str | None = None
) -> Verdicts:
    """Run the public AutoAttack, standard version.

    Args:
        model: in eval mode; in the layout that its users run.
        data: the images.
        threat: norm and epsilon.
        seed: of its random numbers.
        only: run this one of its attacks, by our name, with the settings of the standard version.

    Raises:
        TemperError: pyautoattack is not installed.
    """
    peer = _autoattack()(model, norm=threat.norm, eps=threat.epsilon, version="standard", seed=seed)
    if only:
        peer.attacks_to_run = [_THEIR_NAMES[only]]
    x, labels = as_floats(data)
    targets = int(model(x[:1]).shape[1]) - 1
    peer.apgd_targeted.n_target_classes = min(peer.apgd_targeted.n_target_classes, targets)
    peer.fab.n_target_classes = min(peer.fab.n_target_classes, targets)
    started = time.monotonic()
    adversarial, _ = peer.run_standard_evaluation(x, labels, batch_size=BATCH)
    seconds = time.monotonic() - started
    with torch.no_grad():
        standing = torch.cat([model(part).argmax(dim=1) for part in adversarial.split(BATCH)]) == labels
    return Verdicts(standing.numpy(), seconds)


def _autoattack() -> Any:  # noqa: ANN401 - the package carries no types
    try:
        from pyautoattack import AutoAttack  # noqa: PLC0415 - a development dependency
    except ImportError as error:
        msg = "pyautoattack is not installed; run pip install --no-deps pyautoattack==0.2.0"
        raise TemperError(msg) from error
    return AutoAttack


def ours(
    model: nn.Module, data: LabelledImages, threat: ThreatModel, seed: int, evaluation: Evaluation
) -> Verdicts:
    """Run our attacks; the seconds count everything from the images to the verdicts."""
    subject = Subject(model, "", data, "", (), torch.device("cpu"))
    plan = Plan(evaluation.model_copy(update={"batch_size": BATCH}), threat, seed)
    started = time.monotonic()
    with frozen(model):
        natural = natural_logits(subject, len(data), BATCH)
        victim, _ = make_victim(subject, plan)
        found = Search(victim, subject, natural, plan).run()
    return Verdicts(found.outcomes.stands[-1], time.monotonic() - started)


def exact(attacks: tuple[EvaluationAttack, ...] | None = None) -> Evaluation:
    """Return the mode that must equal the reference: float32 search, the reference's random stream."""
    return Evaluation(attacks=attacks or "standard", mode="exact", draws="reference")


def keyed(attacks: tuple[EvaluationAttack, ...] | None = None) -> Evaluation:
    """Return the mode that leaves nothing out: float32 search, draws keyed by example."""
    return Evaluation(attacks=attacks or "standard", mode="exact")


def verdict(attacks: tuple[EvaluationAttack, ...] | None = None) -> Evaluation:
    """Return the default mode: bfloat16 search confirmed in float32, draws keyed by example."""
    return Evaluation(attacks=attacks or "standard", mode="verdict")
