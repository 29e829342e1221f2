"""The search for adversarial examples: attack after attack, each on what the earlier ones left."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from training.attacks.draws import Draws, KeyedDraws, StreamDraws
from training.attacks.search_copy import Precision, search_copy
from training.attacks.victim import Batch, Cost, Victim
from training.config import EvaluationAttack
from training.randomness import derive_seed, uniform
from training.robustness.ensemble import ensemble, run_attack
from training.robustness.parallel import parts_of, run_parts
from training.robustness.results import Outcomes
from training.robustness.subject import Natural, Plan, Subject, as_rows, batches, images_at

_PROBE = 16


@dataclass(frozen=True)
class Searched:
    """What a search found: per-example outcomes, what it cost, and the first images that fooled the model.

    ``worst`` is by position: images (c, h, w), on the CPU.
    """

    outcomes: Outcomes
    attacks: tuple[EvaluationAttack, ...]
    cost: Cost
    worst: dict[int, Tensor]


def make_victim(subject: Subject, plan: Plan) -> tuple[Victim, Precision]:
    """Pair the frozen model with the quicker copy that the evaluation's mode searches with."""
    if plan.evaluation.attacks == "rand":
        return Victim(subject.model), "float32"
    probe, _ = subject.test.batch(0, _PROBE, subject.device)
    hurried = plan.evaluation.mode == "verdict"
    precise, _ = search_copy(subject.model, probe)
    quick, precision = search_copy(subject.model, probe, bfloat16=True) if hurried else (precise, "float32")
    victim = Victim(
        subject.model,
        search=None if quick is subject.model else quick,
        precise=None if precise is subject.model else precise,
        hurried=hurried,
    )
    return victim, precision


class Search:
    """One run of the ensemble.

    Args:
        victim: the model.
        subject: whose images are attacked.
        natural: what the model says of them as they are.
        plan: which attacks, and how.
    """

    def __init__(self, victim: Victim, subject: Subject, natural: Natural, plan: Plan) -> None:
        self._victim = victim
        self._subject = subject
        self._natural = natural
        self._plan = plan
        self._cost = Cost()
        self._worst: dict[int, Tensor] = {}
        self._beside = False

    def run(self) -> Searched:
        """Attack.

        Raises:
            TrainingError: a model that gives NaN or infinity on perturbed images.
        """
        plan, natural = self._plan, self._natural
        attacks = ensemble(plan.evaluation, plan.threat, natural.logits.shape[1])
        standing, worst = natural.right.clone(), natural.predictions.clone()
        stands, attacked = [], []
        given = standing.nonzero().squeeze(1)
        plan.progress(len(natural) - len(given))
        for number, attack in enumerate(attacks):
            at, predicted = self._attack_all(f"{number}-{attack.name}", attack, given)
            standing[at], worst[at] = False, predicted
            attacked.append(torch.zeros_like(standing).index_fill(0, given, value=True))
            stands.append(standing.clone())
            plan.progress(len(at))
            given = given[standing[given]] if number else self._afforded(given[standing[given]])
        plan.progress(int(standing.sum()))
        return Searched(self._outcomes(worst, stands, attacked), attacks, self._cost, self._worst)

    def _afforded(self, left: Tensor) -> Tensor:
        """Return what the budget lets the later attacks see of those that the first one left."""
        budget = self._plan.evaluation.budget
        if budget is None or len(left) <= budget.survivors:
            return left
        draws = uniform(derive_seed(self._plan.seed, "budget"), as_rows(left), 1)[:, 0]
        chosen = np.argsort(draws, kind="stable")[: budget.survivors]
        return left[torch.from_numpy(np.sort(chosen))]

    def _attack_all(self, name: str, attack: EvaluationAttack, given: Tensor) -> tuple[Tensor, Tensor]:
        """Return the positions that fell, shape (k,), and the classes predicted for what fooled them."""
        evaluation, device = self._plan.evaluation, self._subject.device
        keyed = evaluation.draws == "per-example"
        cut = partial(parts_of, device=device) if keyed else batches
        parts = cut(given, evaluation.batch_size)
        self._beside = self._subject.parallel and min(len(parts), torch.get_num_threads()) > 1
        numbered = {id(part): number for number, part in enumerate(parts)}
        found = run_parts(
            lambda at: self._unit(f"{name}-{numbered[id(at)]}", attack, at),
            parts,
            device,
            in_turn=not self._subject.parallel,
        )
        for at, (unit, cost) in zip(parts, found, strict=True):
            self._take(at[unit["fooled"]], unit["images"], cost)
        fell = [at[unit["fooled"]] for at, (unit, _) in zip(parts, found, strict=True)]
        predicted = [unit["predictions"] for unit, _ in found]
        return (torch.cat(fell), torch.cat(predicted)) if parts else (given, given)

    def _take(self, fell: Tensor, images: Tensor, cost: dict[str, int]) -> None:
        self._cost.forward += cost["forward"]
        self._cost.gradient += cost["gradient"]
        for position, image in zip(fell.tolist(), images, strict=True):
            if len(self._worst) < self._plan.evaluation.strip_examples:
                self._worst[position] = image

    def _unit(
        self, name: str, attack: EvaluationAttack, at: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, int]]:
        return self._plan.work.unit(f"{name}-of-{len(at)}", lambda: self._compute(attack, at))

    def _compute(self, attack: EvaluationAttack, at: Tensor) -> tuple[dict[str, Tensor], dict[str, int]]:
        if not self._subject.repeats:
            # The model draws the same numbers whether or not earlier parts were kept from a killed run.
            torch.manual_seed(derive_seed(self._plan.seed, "model", attack.name, int(at[0])))
        victim = self._victim.apart() if self._beside else replace(self._victim, cost=Cost())
        x, labels = images_at(self._subject.test, at, self._subject.device)
        batch = Batch(x, labels, self._natural.logits[at].to(x.device))
        images, fooled = run_attack(attack, victim, batch, self._plan.threat, self._draws(attack, at))
        predictions = labels[fooled]
        if len(predictions):
            with torch.no_grad():
                predictions = victim.model(images[fooled]).argmax(dim=1)
        # As in the reference: what a randomised model got wrong in some pass counts if it does so once more.
        again = predictions != labels[fooled]
        fooled, predictions = fooled.masked_scatter(fooled, again), predictions[again]
        found = {"fooled": fooled.cpu(), "images": images[fooled].cpu(), "predictions": predictions.cpu()}
        return found, {"forward": victim.cost.forward, "gradient": victim.cost.gradient}

    def _draws(self, attack: EvaluationAttack, at: Tensor) -> Draws:
        if self._plan.evaluation.draws == "reference":
            return StreamDraws(self._plan.seed)
        return KeyedDraws(derive_seed(self._plan.seed, attack.name), as_rows(at))

    def _outcomes(self, worst: Tensor, stands: list[Tensor], attacked: list[Tensor]) -> Outcomes:
        return Outcomes(
            rows=np.arange(len(self._natural)),
            labels=self._natural.labels.numpy(),
            predictions=self._natural.predictions.numpy(),
            worst_predictions=worst.numpy(),
            stands=torch.stack(stands).numpy(),
            attacked=torch.stack(attacked).numpy(),
        )
