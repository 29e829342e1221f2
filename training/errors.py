"""Errors that a user can mend."""


class TemperError(Exception):
    """A user's mistake or an unusable input: one line that names it and says how to mend it.

    The command line prints the message without a stack trace and exits with status 2.
    """


class DataError(TemperError):
    """Input data that cannot be used."""


class ArtefactError(TemperError):
    """An artefact that is missing, altered, or made for something else."""


class TrainingError(TemperError):
    """Training that cannot start or cannot go on, such as a loss that diverged."""


def explain(error: TemperError | OSError) -> str:
    """Return the message for a user: a TemperError's own, or what the system refused."""
    if isinstance(error, TemperError):
        return str(error)
    where = error.filename2 or error.filename or "a file"
    reason = error.strerror or type(error).__name__
    return f"{where}: {reason}; check that the folder is there, writable and not full"
