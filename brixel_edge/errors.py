"""The errors a user can meet, each with the exit code that its command ends with.

A message says what was given, what is allowed and what to type next, on one line. Each class also derives from the
builtin that a Python caller would expect to catch.
"""

from __future__ import annotations


class BrixelError(Exception):
    """Base of all errors that are the user's to mend; `exit_code` is that of the command line."""

    exit_code = 2


class SpecError(BrixelError, ValueError):
    """A model or image description that cannot be: a size that does not fit the patch, an unknown name."""


class BundleError(BrixelError, ValueError):
    """A file or model directory that is not what it should be: missing, damaged, of another kind."""


class BackendMissing(BrixelError, ImportError):
    """A backend that is not installed here; the message names the package to install."""

    exit_code = 3


class BuildError(BrixelError, RuntimeError):
    """A graph that an exporter or an engine builder refused."""

    exit_code = 4


class ParityError(BrixelError, RuntimeError):
    """An artefact whose output differs from the PyTorch reference by more than its gate allows."""

    exit_code = 5


class MemoryBudgetError(BrixelError, MemoryError):
    """A model that does not fit into the memory it was given."""

    exit_code = 6


class SourceError(BrixelError, OSError):
    """A camera or stream that cannot be opened, or was lost for good.

    Attributes:
        kind: `not found`, `refused`, `authentication`, `timeout`, `codec` or `end`; None where nobody can tell.
    """

    exit_code = 7

    def __init__(self, message: str, *, kind: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind


class DataError(BrixelError, ValueError):
    """Training data that cannot be used: no photographs, too few for a batch, none large enough."""


class TrainingError(BrixelError, RuntimeError):
    """A training run that cannot go on: a loss that is not a number, results that cannot be written."""

    exit_code = 4
