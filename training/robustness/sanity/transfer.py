"""Checks by transfer: images made on another model do not break what white-box attacks cannot."""

from training.attacks.gradients import frozen
from training.config import SanityName
from training.robustness.results import SanityCheck
from training.robustness.sanity.inspection import Inspection
from training.robustness.sanity.surrogate import train_surrogate
from training.robustness.sanity.verdict import compared, not_run

_GRADIENTS = "attacks on the model itself"


def teacher_transfer_not_stronger(inspection: Inspection) -> SanityCheck:
    """Images that were made to fool the clean teacher."""
    name: SanityName = "teacher_transfer_not_stronger"
    if inspection.teacher is None:
        return not_run(name, "no clean teacher was given")
    stands = inspection.pushed(inspection.teacher, inspection.ascent())
    words = ("images made on the clean teacher", _GRADIENTS)
    return compared(name, stands, inspection.white_box, inspection.config, words)


def surrogate_transfer_not_stronger(inspection: Inspection) -> SanityCheck:
    """Images that were made to fool a small network which learnt from the model's answers."""
    name: SanityName = "surrogate_transfer_not_stronger"
    if inspection.train is None or not len(inspection.train):
        return not_run(name, "no training images were given for a surrogate to learn from")
    surrogate = train_surrogate(inspection, inspection.train)
    with frozen(surrogate):
        agree = inspection.logits(surrogate, inspection.batch.images).argmax(dim=1)
        share = float((agree == inspection.batch.logits.argmax(dim=1)).float().mean())
        stands = inspection.pushed(surrogate, inspection.ascent())
    words = (f"images made on a surrogate that agrees with the model on {100 * share:.0f} %", _GRADIENTS)
    return compared(name, stands, inspection.white_box, inspection.config, words)
