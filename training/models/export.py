"""Whether a user's network can be registered: the registry holds exported graphs, never pickles."""

import logging
import warnings

import torch

from training.errors import TrainingError
from training.models.classifier import Classifier


def check_exportable(classifier: Classifier, shape: tuple[int, int, int]) -> None:
    """Try torch.export before any training, so that registration does not fail after it.

    Args:
        classifier: left in the mode it was in.
        shape: (height, width, channels) of the input.

    Raises:
        TrainingError: a network that torch.export cannot trace.
    """
    height, width, channels = shape
    training = classifier.training
    classifier.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.disable(logging.CRITICAL)
            example = (torch.zeros(2, channels, height, width),)
            torch.export.export(classifier, example, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        msg = f"torch.export, which registration needs, cannot trace the network ({reason}); keep Python "
        msg += "branches on tensor values and fixed batch sizes out of its forward"
        raise TrainingError(msg) from error
    finally:
        logging.disable(logging.NOTSET)
        classifier.train(training)
