"""The errors that a person is meant to read.

Every message says what was wrong, where (file, key, row), what is allowed and what to do next.
The command line prints it without a traceback and exits with 1.
"""


class CytoloopError(Exception):
    """Base of all errors whose message is written for the user."""


class ParamsError(CytoloopError):
    """A parameter is unknown, of the wrong type, or impossible in combination with another."""


class SourceError(CytoloopError):
    """A data source is not in its declared layout, or is hostile (archive tricks, too large)."""


class ArtifactError(CytoloopError):
    """An artifact folder is missing, incomplete, or does not belong to the others."""


class ValidationFailed(CytoloopError):
    """The data did not pass; the step's outputs (receipt, Data Docs) are kept to be looked at."""


class ModelError(CytoloopError):
    """A model bundle is damaged, foreign, or does not fit the request."""


class ServerAway(CytoloopError):
    """A server does not answer, or has trouble of its own; the same request may succeed later."""


class SubmissionError(CytoloopError):
    """A cluster's API refused something, or a run there did not succeed."""


class Irreproducible(CytoloopError):
    """A version was made again, and an artifact came out differently."""
